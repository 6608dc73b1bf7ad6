"""The changes a client may ask for: checked here, once, for the HTTP API and for everybody else. Each runs in the task
that owns the state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Protocol

from cluster.api.schemas import DrainBody, NoFields, Restart, Scale, SetStrategy, Shutdown, Weight
from cluster.deployment.plan import Plan
from cluster.deployment.revisions import Revisions
from cluster.errors import Refused
from cluster.events import Emit
from cluster.fleet.fleet import Fleet
from cluster.fleet.groups import BALANCER, number_of
from cluster.fleet.intent import Intent
from cluster.fleet.states import WorkerState
from config.errors import nearest
from config.topology import AUTO_STRATEGY, STRATEGIES, BalancerConfig


class External(Protocol):
    """A server that this cluster did not start."""

    @property
    def id(self) -> str: ...

    @property
    def state(self) -> WorkerState: ...


class Balancers(Protocol):
    """`cluster.balancers.group.BalancerGroup`. ``connected``: requests may be in flight in any of them."""

    @property
    def connected(self) -> bool: ...

    def request_replacement(self, config: BalancerConfig | None = None) -> None: ...

    def drain_within(self, timeout: float) -> None: ...


class ClusterCommands:
    """``next_version()``: of the backend set that follows from what is changed now; ``shut_down(now)`` begins the end;
    ``now``: s, monotonic."""

    def __init__(
        self, fleet: Fleet, revisions: Revisions, external: Sequence[External], balancers: Balancers, emit: Emit,
        next_version: Callable[[], tuple[int, int]], shut_down: Callable[[bool], None], now: Callable[[], float],
    ) -> None:
        self._fleet, self._revisions, self._external, self._balancers = fleet, revisions, external, balancers
        self._emit, self._next_version, self._shut_down, self._now = emit, next_version, shut_down, now

    @property
    def _intent(self) -> Intent:
        return self._fleet.intent

    def scale(self, body: Scale) -> dict[str, Any]:
        self.check_not_ending()
        plan = self._revisions.chosen(body.model)
        now = self._intent.group(plan.group).count
        if plan.definition is not None and not now:
            raise Refused(409, f"model {plan.group!r} is not up: it comes up with {plan.placement.planned}", "model")
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
        self._intent.scale(wanted, plan.group)
        on = "; autoscaling goes on from there" if plan.settings.autoscale == "on" else ""
        about = "cluster" if plan.definition is None else plan.group
        self._emit(
            about, f"scale from {now} to {wanted} instances{on}", kind="scale", data={"from": now, "to": wanted}
        )
        return {"desired": wanted, "current": self._fleet.ready_count(plan.group)}

    def set_strategy(self, body: SetStrategy) -> dict[str, Any]:
        name = body.strategy
        plan = None if body.model is None else self._revisions.named(body.model)
        of_one = plan is not None and plan.definition is not None
        names = STRATEGIES if of_one else (AUTO_STRATEGY, *STRATEGIES)
        if name not in names:
            raise Refused(
                400, f"unknown strategy {name!r}{nearest(name, names)}; known: {', '.join(names)}", "strategy"
            )
        if plan is not None and plan.definition is not None:
            own = plan.definition.model_copy(update={"strategy": name})
            self._revisions.set_model(replace(plan, definition=own))
            self._emit(plan.group, f"strategy {name}", kind="strategy", data={"strategy": name})
            return {"strategy": name, "model": plan.group}
        self._intent.strategy = name
        self._emit("cluster", f"strategy {name}", kind="strategy", data={"strategy": name})
        return {"strategy": name}

    def restart(self, body: Restart) -> dict[str, Any]:
        self.check_not_ending()
        if body.instance_id in BALANCER:
            self._balancers.request_replacement()
            self._emit("load_balancer", "restart asked for", kind="restart")
            return {"restarting": ["load_balancer"], "rolling": False}
        if body.rolling:
            plan = self._revisions.chosen(body.model)
            spare = self.spare_for(plan, body.spare)
            self._intent.restart_rolling(spare, group=plan.group)
            self.emit_rolling(spare)
            restarting = list(self._intent.group(plan.group).lasting)
            return {"restarting": restarting, "rolling": True, "spare": spare}
        name, wanted = str(body.instance_id), self._intent.desired.lasting
        if name in {backend.id for backend in self._external}:
            raise Refused(409, f"{name} was not started by this cluster: it cannot restart it", "instance_id")
        if name not in wanted:
            raise Refused(404, f"no instance {name!r}; there are: {', '.join(wanted) or 'none'}", "instance_id")
        self._intent.restart(name)
        self._emit(name, "restart asked for", kind="restart", data={"rolling": False})
        return {"restarting": [name], "rolling": False}

    def emit_rolling(self, spare: str | None) -> None:
        """A rolling restart begins."""
        self._emit(
            "cluster", f"rolling restart{f', {spare} stands in' if spare else ''}", kind="restart",
            data={"rolling": True, "spare": spare},
        )

    def spare_for(self, plan: Plan, wanted: bool | None) -> str | None:
        """The name of the spare that a rolling restart starts first, or None: not wanted, or there is no room for
        it, or a standby that does the same."""
        if self._intent.group(plan.group).standbys:
            return None
        if not (plan.settings.rolling_spare if wanted is None else wanted) or not self._intent.group(plan.group).count:
            return None
        name = self._intent.free_name(plan.group)
        room = min(plan.placement.capacity, plan.settings.max_instances or plan.placement.capacity)
        return name if number_of(name) < room else None

    def drain(self, name: str, body: DrainBody) -> dict[str, Any]:
        """Out of rotation until it is undrained, restarted or scaled away."""
        self.check_not_ending()
        self._check_known(name)
        grace = self._intent.desired.drain_timeout if body.grace is None else body.grace
        if name not in self._intent.cordons:
            self._emit(name, f"drain asked for, with {grace:g} s for what runs", kind="drain", data={"grace": grace})
        self._intent.cordon(name, grace, self._now(), self._next_version(), self._balancers.connected)
        return {"instance_id": name, "drained": True, "grace": grace, "ready": self._serving()}

    def undrain(self, name: str, body: NoFields) -> dict[str, Any]:
        self._check_known(name)
        if self._intent.cordons.end(name):
            self._emit(name, "no longer drained", kind="undrain")
        return {"instance_id": name, "drained": False, "ready": self._serving()}

    def set_weight(self, name: str, body: Weight) -> dict[str, Any]:
        self._check_known(name)
        self._intent.weights[name] = body.weight
        self._emit(name, f"weight {body.weight}", kind="weight", data={"weight": body.weight})
        return {"instance_id": name, "weight": body.weight}

    def shut_down(self, body: Shutdown) -> dict[str, Any]:
        self._shut_down(body.now)
        return {"shutting_down": True}

    def check_not_ending(self) -> None:
        """Raises Refused."""
        if self._intent.desired.shutting_down:
            raise Refused(409, "the cluster is shutting down")

    def _serving(self) -> int:
        """How many take new requests."""
        everyone: list[External] = [*self._fleet.instances.values(), *self._external]
        out = {*self._intent.cordons, *self._intent.desired.standbys}
        return sum(one.state is WorkerState.READY and one.id not in out for one in everyone)

    def _check_known(self, name: str) -> None:
        known = [*self._intent.desired.lasting, *(backend.id for backend in self._external)]
        if name not in known:
            raise Refused(404, f"no instance {name!r}; there are: {', '.join(known) or 'none'}", "instance_id")
