"""The changes a client may ask for: checked here, once, for the HTTP API and for everybody else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    model_validator,
)

from config.errors import nearest
from config.topology import STRATEGIES

if TYPE_CHECKING:
    from cluster.supervisor import Supervisor


class Refused(Exception):
    """A change that is not made; ``status`` is the HTTP status that says why."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param = status, param


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Scale(_Body):
    action: Literal["scale_up", "scale_down"] | None = None
    count: StrictInt | None = Field(None, ge=1)
    instances: StrictInt | None = Field(None, ge=0)

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
    instance_id: StrictStr | None = None
    rolling: StrictBool | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Restart:
        if (self.instance_id is None) == (not self.rolling):
            raise ValueError('either {"instance_id": id} or {"rolling": true} is needed')
        return self


class Weight(_Body):
    weight: StrictInt = Field(ge=0, le=1000)


class LoadAdapter(_Body):
    lora_name: StrictStr = Field(min_length=1)
    lora_path: StrictStr = Field(min_length=1)
    load_inplace: StrictBool = False
    description: StrictStr | None = None


class UnloadAdapter(_Body):
    lora_name: StrictStr = Field(min_length=1)


class RollbackAdapter(_Body):
    version: StrictInt | None = Field(None, ge=1)


class Shutdown(_Body):
    now: StrictBool = False


def parse(kind: type[_Body], body: bytes) -> Any:
    """Raises Refused (400) saying what is wrong and where."""
    try:
        return kind.model_validate_json(body or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
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
    supervisor.events.tell(
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
    supervisor.events.tell("cluster", f"strategy {body.strategy}", kind="strategy", data={"strategy": body.strategy})
    return {"strategy": body.strategy}


def restart(supervisor: Supervisor, body: Restart) -> dict[str, Any]:
    _not_ending(supervisor)
    fleet = supervisor.fleet
    if body.rolling:
        fleet.restart_rolling()
        supervisor.events.tell("cluster", "rolling restart", kind="restart", data={"rolling": True})
        return {"restarting": list(fleet.desired.instances), "rolling": True}
    name = str(body.instance_id)
    if name in {a.spec.id for a in supervisor.attached}:
        raise Refused(409, f"{name} was not started by this cluster: it cannot restart it", "instance_id")
    if name not in fleet.desired.instances:
        known = ", ".join(fleet.desired.instances) or "none"
        raise Refused(404, f"no instance {name!r}; there are: {known}", "instance_id")
    fleet.restart(name)
    supervisor.events.tell(name, "restart asked for", kind="restart", data={"rolling": False})
    return {"restarting": [name], "rolling": False}


def set_weight(supervisor: Supervisor, name: str, body: Weight) -> dict[str, Any]:
    known = [*supervisor.fleet.desired.instances, *(a.spec.id for a in supervisor.attached)]
    if name not in known:
        raise Refused(404, f"no instance {name!r}; there are: {', '.join(known) or 'none'}", "instance_id")
    supervisor.fleet.weights[name] = body.weight
    supervisor.events.tell(name, f"weight {body.weight}", kind="weight", data={"weight": body.weight})
    return {"instance_id": name, "weight": body.weight}


def shut_down(supervisor: Supervisor, body: Shutdown) -> dict[str, Any]:
    supervisor.shut_down(body.now)
    return {"shutting_down": True}


def _not_ending(supervisor: Supervisor) -> None:
    if supervisor.fleet.desired.shutting_down:
        raise Refused(409, "the cluster is shutting down")
