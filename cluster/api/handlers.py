"""The changes a client may ask for: checked here, once, for the HTTP API and for everybody else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from cluster.errors import LONGEST, Refused
from cluster.fleet.fleet import instance_name
from cluster.fleet.instance import Instance
from cluster.fleet.states import WorkerState
from cluster.monitoring.external import ExternalBackend
from config import bounded
from config.errors import nearest
from config.lora_config import DESCRIPTION
from config.topology import STRATEGIES

if TYPE_CHECKING:
    from cluster.supervisor.loop import Supervisor


#: Values in a change's body.
MOST_VALUES = 10_000

def _whole(value: Any) -> Any:
    """In JSON 3.0 is 3."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Whole = Annotated[StrictInt, BeforeValidator(_whole)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Scale(_Body):
    action: Literal["scale_up", "scale_down"] | None = None
    count: _Whole | None = Field(None, ge=1)
    instances: _Whole | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _one_way(self) -> Scale:
        if (self.instances is None) == (self.action is None):
            raise ValueError('either {"action": "scale_up"|"scale_down", "count": k} or {"instances": n} is needed')
        if self.instances is not None and self.count is not None:
            raise ValueError('"count" goes with "action", not with "instances"')
        return self


class Strategy(_Body):
    strategy: StrictStr


class Restart(_Body):
    """``spare``: whether a spare worker is started first; None leaves it to the settings."""

    instance_id: StrictStr | None = None
    rolling: StrictBool | None = None
    spare: StrictBool | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Restart:
        if (self.instance_id is None) == (not self.rolling):
            raise ValueError('either {"instance_id": id} or {"rolling": true} is needed')
        if self.spare is not None and not self.rolling:
            raise ValueError('"spare" goes with "rolling"')
        return self


class Drain(_Body):
    """``grace`` in seconds; None: the drain timeout."""

    grace: float | None = Field(None, ge=0, strict=True, allow_inf_nan=False)


class Undrain(_Body):
    pass


class Weight(_Body):
    weight: _Whole = Field(ge=0, le=1000)


class LoadAdapter(_Body):
    lora_name: StrictStr = Field(min_length=1, max_length=256)
    lora_path: StrictStr = Field(min_length=1, max_length=4096)
    load_inplace: StrictBool = False
    description: StrictStr | None = Field(None, max_length=DESCRIPTION)
    allow_no_effect: StrictBool = False


class UnloadAdapter(_Body):
    lora_name: StrictStr = Field(min_length=1)


class RollbackAdapter(_Body):
    version: _Whole | None = Field(None, ge=1)


class Shutdown(_Body):
    now: StrictBool = False


def parse(kind: type[_Body], body: bytes) -> Any:
    """Raises Refused (400) saying what is wrong and where."""
    try:
        bounded.measure(body, MOST_VALUES)
    except bounded.Unfit as error:
        raise Refused(400, f"the body {error}") from None
    try:
        return kind.model_validate_json(body or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part)[:LONGEST] for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = f"unknown field{nearest(where, kind.model_fields)}"
        raise Refused(400, f"{where}: {message}" if where else message, where or None) from None


def scale(supervisor: Supervisor, body: Scale) -> dict[str, Any]:
    fleet, plan = supervisor.fleet, supervisor.plan
    _not_ending(supervisor)
    now = len(fleet.desired.instances)
    by = body.count or 1
    wanted = body.instances if body.instances is not None else now + (by if body.action == "scale_up" else -by)
    if not plan.least <= wanted <= plan.most:
        what = f"{len(plan.placement.machine.gpus)} GPUs" if plan.placement.on_gpu else "this machine's memory"
        why = "max_instances" if plan.settings.max_instances else f"what {what} can hold"
        raise Refused(
            409,
            f"{wanted} instances are outside {plan.least}..{plan.most} "
            f"({'min_instances' if wanted < plan.least else why})",
        )
    fleet.scale(wanted)
    supervisor.events.emit(
        "cluster", f"scale from {now} to {wanted} instances", kind="scale", data={"from": now, "to": wanted}
    )
    return {"desired": wanted, "current": fleet.ready_count}


def set_strategy(supervisor: Supervisor, body: Strategy) -> dict[str, Any]:
    if body.strategy not in STRATEGIES:
        known = ", ".join(STRATEGIES)
        raise Refused(
            400, f"unknown strategy {body.strategy!r}{nearest(body.strategy, STRATEGIES)}; known: {known}", "strategy"
        )
    supervisor.strategy = body.strategy
    supervisor.events.emit("cluster", f"strategy {body.strategy}", kind="strategy", data={"strategy": body.strategy})
    return {"strategy": body.strategy}


#: By which names the balancer can be asked to be restarted.
BALANCER = ("load_balancer", "lb", "balancer")


def restart(supervisor: Supervisor, body: Restart) -> dict[str, Any]:
    _not_ending(supervisor)
    fleet = supervisor.fleet
    if body.instance_id in BALANCER:
        supervisor.balancer.request_replacement()
        supervisor.events.emit("load_balancer", "restart asked for", kind="restart")
        return {"restarting": ["load_balancer"], "rolling": False}
    if body.rolling:
        spare = spare_for(supervisor, body.spare)
        fleet.restart_rolling(spare)
        supervisor.events.emit(
            "cluster", f"rolling restart{f', {spare} stands in' if spare else ''}", kind="restart",
            data={"rolling": True, "spare": spare},
        )
        return {"restarting": list(fleet.desired.instances), "rolling": True, "spare": spare}
    name = str(body.instance_id)
    if name in {a.spec.id for a in supervisor.external}:
        raise Refused(409, f"{name} was not started by this cluster: it cannot restart it", "instance_id")
    if name not in fleet.desired.instances:
        known = ", ".join(fleet.desired.instances) or "none"
        raise Refused(404, f"no instance {name!r}; there are: {known}", "instance_id")
    fleet.restart(name)
    supervisor.events.emit(name, "restart asked for", kind="restart", data={"rolling": False})
    return {"restarting": [name], "rolling": False}


def spare_for(supervisor: Supervisor, wanted: bool | None) -> str | None:
    """The name of the spare that a rolling restart starts first, or None: not wanted, or there is no room for it."""
    fleet, plan = supervisor.fleet, supervisor.plan
    if not (plan.settings.rolling_spare if wanted is None else wanted) or not fleet.desired.instances:
        return None
    number = fleet.free_number()
    room = min(plan.placement.capacity, plan.settings.max_instances or plan.placement.capacity)
    return instance_name(number) if number < room else None


def drain(supervisor: Supervisor, name: str, body: Drain) -> dict[str, Any]:
    """Out of rotation until it is undrained, restarted or scaled away."""
    _not_ending(supervisor)
    _known(supervisor, name)
    grace = supervisor.fleet.desired.drain_timeout if body.grace is None else body.grace
    if name not in supervisor.fleet.cordons:
        supervisor.events.emit(
            name, f"drain asked for, with {grace:g} s for what runs", kind="drain", data={"grace": grace}
        )
    supervisor.drain_by_hand(name, grace)
    return {"instance_id": name, "drained": True, "grace": grace, "ready": _serving(supervisor)}


def undrain(supervisor: Supervisor, name: str, body: Undrain) -> dict[str, Any]:
    _known(supervisor, name)
    if supervisor.fleet.undrain(name):
        supervisor.events.emit(name, "no longer drained", kind="undrain")
    return {"instance_id": name, "drained": False, "ready": _serving(supervisor)}


def _serving(supervisor: Supervisor) -> int:
    """How many take new requests."""
    held = supervisor.fleet.cordons
    everyone: list[Instance | ExternalBackend] = [*supervisor.fleet.instances.values(), *supervisor.external]
    return sum(i.state is WorkerState.READY and i.id not in held for i in everyone)


def _known(supervisor: Supervisor, name: str) -> None:
    known = [*supervisor.fleet.desired.instances, *(a.spec.id for a in supervisor.external)]
    if name not in known:
        raise Refused(404, f"no instance {name!r}; there are: {', '.join(known) or 'none'}", "instance_id")


def set_weight(supervisor: Supervisor, name: str, body: Weight) -> dict[str, Any]:
    _known(supervisor, name)
    supervisor.fleet.weights[name] = body.weight
    supervisor.events.emit(name, f"weight {body.weight}", kind="weight", data={"weight": body.weight})
    return {"instance_id": name, "weight": body.weight}


def shut_down(supervisor: Supervisor, body: Shutdown) -> dict[str, Any]:
    supervisor.shut_down(body.now)
    return {"shutting_down": True}


def _not_ending(supervisor: Supervisor) -> None:
    if supervisor.fleet.desired.shutting_down:
        raise Refused(409, "the cluster is shutting down")
