"""Once a second, for each group of workers: how many the load needs, and a change of their number if it is wanted, on
the way of every other: stored first."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Protocol

from cluster.events import Emit
from cluster.fleet.autoscaler import Autoscaler, Demand, ScalingDecision, ScalingRules, least_missed, seats_of
from cluster.fleet.fleet import Fleet
from cluster.fleet.groups import DEFAULT
from cluster.fleet.instance import Instance
from cluster.fleet.pace import EngineReading, GroupPace
from cluster.fleet.states import WorkerState
from cluster.storage.store import NotSaved
from cluster.supervisor.clock import Clocks
from config.settings import Settings
from worker.progress import Reading

#: Seconds between two looks.
EVERY = 1.0

_ON_THE_WAY = frozenset({WorkerState.STARTING, WorkerState.DRAINING, WorkerState.STOPPING})

#: `cluster.supervisor.loop.Supervisor.command`.
Command = Callable[[Callable[[], None]], Awaitable[None]]

#: What an engine last said of itself, by the id of its worker; None: nothing yet.
Readings = Callable[[str], Reading | None]


class Bounds(Protocol):
    """`cluster.deployment.plan.Plan`."""

    @property
    def settings(self) -> Settings: ...

    @property
    def most(self) -> int: ...

    @property
    def group(self) -> str: ...

    @property
    def leaving(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class _ScalingLook:
    """One look: of how many workers, what balancers reported, and what follows. ``learnt``: what a worker is busy
    enough with is, else it is what the settings say."""

    count: int
    demand: Demand
    rules: ScalingRules
    decision: ScalingDecision
    learnt: bool


class Autoscaling:
    """``plans()``: those that hold now, by group; ``demand(names, model)``: what balancers report of those workers;
    ``model``: the one that they serve, where there are several; ``readings``: of any worker."""

    def __init__(
        self, fleet: Fleet, plans: Callable[[], Mapping[str, Bounds]],
        demand: Callable[[Collection[str], str | None], Demand], readings: Readings, command: Command, emit: Emit,
        clock: Clocks,
    ) -> None:
        self._fleet, self._plans, self._demand, self._readings = fleet, plans, demand, readings
        self._command, self._emit, self._clock = command, emit, clock
        self._groups: dict[str, GroupScaling] = {}

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            await self.look()

    async def look(self) -> None:
        plans = self._plans()
        self._groups = {name: scaling for name, scaling in self._groups.items() if name in plans}
        for name, plan in plans.items():
            if not plan.leaving:
                await self._of(name).look()

    def _of(self, name: str) -> GroupScaling:
        if name not in self._groups:
            self._groups[name] = GroupScaling(
                name, self._fleet, lambda: self._plans()[name], lambda names: self._demand(names, self._model(name)),
                self._readings, self._command, self._emit, self._clock,
            )
        return self._groups[name]

    def _model(self, name: str) -> str | None:
        return self._fleet.intent.group(name).model if len(self._plans()) > 1 else None

    def describe(self, group: str = DEFAULT) -> dict[str, Any] | None:
        """For status, of one group; see `GroupScaling.describe`."""
        return self._groups[group].describe() if group in self._groups else None


class GroupScaling:
    """Of the workers of the group ``name``. ``demand(names)``: what balancers report of those workers. ``plan()``: the
    one that holds now. A model that is not up is none of its business: how many it comes up with is."""

    def __init__(
        self, name: str, fleet: Fleet, plan: Callable[[], Bounds], demand: Callable[[Collection[str]], Demand],
        readings: Readings, command: Command, emit: Emit, clock: Clocks,
    ) -> None:
        self._name, self._fleet, self._plan, self._demand, self._command = name, fleet, plan, demand, command
        self._readings, self._emit, self._clock = readings, emit, clock
        self._mode, self._scaler, self._seats = "off", Autoscaler(), 0
        self._pace = GroupPace()
        #: While it only advises: how many there were, and would be by now if it had been listened to.
        self._real = self._advised = 0
        self._latest: _ScalingLook | None = None

    async def look(self) -> None:
        settings = self._plan().settings
        if settings.autoscale != self._mode:
            self._mode, self._scaler, self._latest = settings.autoscale, Autoscaler(), None
            self._real = 0
        if self._mode == "off" or self._fleet.intent.desired.shutting_down or not self._awake():
            return
        there = self._working()
        self._seats = seats_of(there) or self._seats
        if not self._seats:
            return  # none has been ready yet
        if settings.autoscale_itl:
            self._pace.saw(self._read(there), settings.autoscale_itl, self._clock.now())
        count = self._count()
        demand, rules = self._demand(self._there()), self._rules(settings)
        decision = self._scaler.decide(demand, count, self._settled(), rules, self._clock.now())
        learnt = settings.autoscale_itl > 0 and self._pace.learnt
        self._latest = finding = _ScalingLook(count, demand, rules, decision, learnt)
        if decision.target == count:
            return
        if self._mode == "advise":
            self._advised = decision.target
            self._tell(finding, kind="autoscale.advice")
            return
        try:
            await self._command(lambda: self._carry_out(finding))
        except NotSaved:  # the store has said so
            self._scaler.taken_back(count)

    def describe(self) -> dict[str, Any] | None:
        """For status: None while it is off. ``target`` is the number of workers that it wants, or would want."""
        if self._mode == "off":
            return None
        if (found := self._latest) is None:
            return {"mode": self._mode, "target": None, "needed": None, "reason": "no worker has been ready yet"}
        decision = found.decision
        return {
            "mode": self._mode, "target": decision.target + self._failed(), "needed": round(decision.needed, 3),
            "reason": decision.reason, "min": found.rules.least, "max": found.rules.most,
            "requests_per_worker": round(found.rules.each, 3), "learnt": found.learnt, **_told(found.demand),
        }

    def _awake(self) -> bool:
        """Whether it is up, or nobody takes it down."""
        wanted = self._fleet.intent.group(self._name).instances.values()
        return self._name == DEFAULT or any(not want.asleep for want in wanted)

    def _there(self) -> dict[str, Instance]:
        return {name: one for name, one in self._fleet.instances.items() if one.group == self._name}

    def _working(self) -> list[Instance]:
        """Those that are wanted and have not failed for good: a person has to look after these."""
        wanted = self._fleet.intent.group(self._name).instances
        return [i for i in self._there().values() if i.id in wanted and i.state is not WorkerState.FAILED]

    def _failed(self) -> int:
        wanted, there = self._fleet.intent.group(self._name).instances, self._fleet.instances
        return sum(there[name].state is WorkerState.FAILED for name in wanted if name in there)

    def _count(self) -> int:
        real = self._fleet.intent.group(self._name).count - self._failed()
        if self._mode == "on":
            return real
        if real != self._real:  # somebody has changed it
            self._real = self._advised = real
        return self._advised

    def _settled(self) -> bool:
        if self._mode == "advise":
            return True
        group, there = self._fleet.intent.group(self._name), self._there()
        return (
            not group.spares and set(there) == set(group.lasting)
            and not any(i.state in _ON_THE_WAY for i in there.values())
        )

    def _read(self, there: Iterable[Instance]) -> dict[tuple[str, int], EngineReading]:
        """Of those in rotation that tell."""
        read = {(i.id, i.incarnation): self._readings(i.id) for i in there if i.state is WorkerState.READY}
        return {key: EngineReading(each.running, each.tokens) for key, each in read.items() if each is not None}

    def _each(self, settings: Settings) -> float:
        """Requests with which a worker is busy enough."""
        named, goal = self._seats * settings.autoscale_load, settings.autoscale_itl
        return self._pace.each(goal, named, self._seats) if goal else named

    def _rules(self, settings: Settings) -> ScalingRules:
        least = settings.minimum.at(datetime.fromtimestamp(self._clock.wall()))
        return ScalingRules(
            max(1, least), max(1, self._plan().most - self._failed()), self._each(settings),
            settings.autoscale_ttft, settings.autoscale_up_after, settings.autoscale_down_after,
        )

    def _carry_out(self, finding: _ScalingLook) -> None:
        """In the task that owns the state, unless somebody was faster."""
        there, target = self._working(), finding.decision.target
        if self._fleet.intent.desired.shutting_down or self._count() != finding.count or not self._awake():
            return
        leaving = least_missed(there) if target < finding.count else None
        self._fleet.intent.scale(target + self._failed(), self._name, leaving)
        self._tell(finding, kind="autoscale")

    def _tell(self, finding: _ScalingLook, kind: str) -> None:
        demand, decision = finding.demand, finding.decision
        advice = kind == "autoscale.advice"
        if self._name == DEFAULT:
            subject, does = "cluster", f"autoscaling {'would scale' if advice else 'scales'}"
        else:
            subject, does = self._name, f"{'would be' if advice else 'is'} scaled by autoscaling"
        self._emit(
            subject, f"{does} from {finding.count} to {decision.target} workers: {decision.reason} "
            f"({demand.in_flight} requests on workers, {demand.queued} waiting for room, "
            f"{finding.rules.each:.4g} a worker)",
            kind=kind, data={
                "from": finding.count, "to": decision.target, "reason": decision.reason,
                "needed": round(decision.needed, 3), "learnt": finding.learnt, **_told(demand),
                **asdict(finding.rules), "each": round(finding.rules.each, 3),
            },
        )  # fmt: skip


def _told(demand: Demand) -> dict[str, Any]:
    return {"in_flight": demand.in_flight, "queued": demand.queued, "unread_s": round(demand.unread, 3)}
