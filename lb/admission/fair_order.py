"""In which order those that wait are served. Pure.

Whoever had a worker before and lost it goes first. Then by class of priority: a place goes to a lower class only if
nobody of a higher one can use it. Within a class by
tenant: each has a counter of the tokens that it was served, over its weight, and the one with the least is next. That
is the Virtual Token Counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): a tenant that
comes back after having asked for nothing is lifted to the others, so nobody saves up. A request is charged what it is
expected to cost when it is served, and the difference when it is known.

Within a tenant in the order in which requests came, and so for all of them while there is one tenant only.

While adapters outnumber the slots of the workers, a request that needs a slot that is taken lets those go first whose
adapter is active already, but only so many as were ahead of it when it came: it waits at most twice as long as if
nobody had gone first.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Generic, Protocol, TypeVar

from config.identity.api_keys import Priority
from lb.protocol.tenant import Tenant

#: Flows that are kept though nobody waits in them, for their counters are ahead of the others'.
_MOST_IDLE = 1_000


#: Of classes; 0 is for those that had a worker before.
_RANKS = {priority: rank for rank, priority in enumerate(Priority, 1)}


class WaitingRequest(Protocol):
    """One that waits. ``priority``: its class, which need not be its tenant's. ``kind``: those of the same can be
    served by the same workers. ``cost``: tokens that it is expected to take. ``again``: it had a worker before.
    ``number``, ``ahead`` and ``passed`` are the order's own."""

    @property
    def tenant(self) -> Tenant: ...
    @property
    def priority(self) -> Priority: ...
    @property
    def kind(self) -> Hashable: ...
    @property
    def cost(self) -> float: ...

    again: bool
    number: int
    ahead: int
    passed: int


W = TypeVar("W", bound=WaitingRequest)


class ServeResult(Enum):
    """What became of one whose turn it was."""

    SERVED = auto()
    GONE = auto()  #: refused
    IN_VAIN = auto()  #: nobody can take it, or one of its kind, now


@dataclass(slots=True, eq=False)
class _Line(Generic[W]):
    """Those of one tenant and one kind, the oldest first. ``passed``: how often others have gone first."""

    waiting: dict[W, None] = field(default_factory=dict)
    passed: int = 0

    @property
    def first(self) -> W:
        return next(iter(self.waiting))

    @property
    def due(self) -> bool:
        """Whether as many went first as may."""
        return not self.waiting or self.passed - self.first.passed >= self.first.ahead


@dataclass(slots=True, eq=False)
class _Flow(Generic[W]):
    """Those of one tenant. ``version``: of its entry in the heap; all others of it are stale."""

    tenant: Tenant
    counter: float
    number: int
    lines: dict[Hashable, _Line[W]] = field(default_factory=dict)
    version: int = 0

    @property
    def size(self) -> int:
        return sum(len(line.waiting) for line in self.lines.values())


@dataclass(slots=True, eq=False)
class _Class(Generic[W]):
    """Those of one priority; the lower ``rank`` goes first. ``time``: the highest counter at which any flow was
    served; ``most``: so many flows until those that mean nothing any more are looked for."""

    rank: int
    flows: dict[str, _Flow[W]] = field(default_factory=dict)
    heap: list[tuple[float, int, int, _Flow[W]]] = field(default_factory=list)
    time: float = 0.0
    size: int = 0
    made: int = 0
    most: int = _MOST_IDLE

    def flow(self, tenant: Tenant) -> _Flow[W]:
        """Its flow, which is not behind the others."""
        flow = self.flows.get(tenant.name)
        if flow is None:
            if len(self.flows) > self.most:
                self.flows = {n: f for n, f in self.flows.items() if f.lines or f.counter > self.time}
                self.most = max(_MOST_IDLE, 2 * len(self.flows))  # else each new one would look at all
            self.made += 1
            flow = self.flows[tenant.name] = _Flow(tenant, self.time, self.made)
        flow.tenant = tenant
        if not flow.lines:
            flow.counter = max(flow.counter, self.time)
        return flow

    def push(self, flow: _Flow[W]) -> None:
        flow.version += 1
        heapq.heappush(self.heap, (flow.counter, flow.number, flow.version, flow))

    def first(self) -> _Flow[W] | None:
        """The one with the least counter in which somebody waits."""
        while self.heap:
            _, _, version, flow = self.heap[0]
            if version == flow.version and flow.lines:
                return flow
            heapq.heappop(self.heap)
        return None

    def pop(self) -> _Flow[W] | None:
        """The same; out of the heap then."""
        if (flow := self.first()) is not None:
            heapq.heappop(self.heap)
        return flow


@dataclass(frozen=True, slots=True)
class Means(Generic[W]):
    """What there is to serve with. ``serve`` tries one, and takes it out of the order unless that was in vain.
    ``room``: whether anything is left to be had. ``blocked``: a tenant that may not have more now. ``ready``: of a
    kind, whether a worker with room has its adapter active, or a slot free for it."""

    serve: Callable[[W], ServeResult]
    room: Callable[[], bool] = lambda: True
    blocked: Callable[[Tenant], bool] = lambda tenant: False
    ready: Callable[[Hashable], bool] = lambda kind: True


class FairOrder(Generic[W]):
    """Of all that wait. What a tenant's limits and weight are is what its latest request said."""

    def __init__(self) -> None:
        self._classes: tuple[_Class[W], ...] = tuple(_Class(rank) for rank in range(1 + len(Priority)))

    def __len__(self) -> int:
        return sum(group.size for group in self._classes)

    def __iter__(self) -> Iterator[W]:
        """All that wait, in no order that means anything."""
        for group in self._classes:
            for flow in group.flows.values():
                for line in flow.lines.values():
                    yield from line.waiting

    def count(self, which: Callable[[Tenant, Hashable], bool]) -> int:
        """How many wait of those tenants and kinds."""
        return sum(
            len(line.waiting) for group in self._classes if group.size for flow in group.flows.values()
            for kind, line in flow.lines.items() if which(flow.tenant, kind)
        )  # fmt: skip

    def add(self, one: W) -> None:
        group = self._classes[_rank(one)]
        flow = group.flow(one.tenant)
        was_idle = not flow.lines
        line = flow.lines.setdefault(one.kind, _Line())
        group.made += 1
        one.number, one.ahead, one.passed = group.made, group.size, line.passed
        line.waiting[one] = None
        group.size += 1
        if was_idle:
            group.push(flow)

    def discard(self, one: W) -> None:
        """It waits no more."""
        group = self._classes[_rank(one)]
        flow = group.flows.get(one.tenant.name)
        line = None if flow is None else flow.lines.get(one.kind)
        if flow is None or line is None or one not in line.waiting:
            return
        del line.waiting[one]
        group.size -= 1
        if not line.waiting:
            del flow.lines[one.kind]

    def charge(self, tenant: Tenant, priority: Priority, tokens: float) -> None:
        """It has had so many more in that class, or fewer where that is negative, than it was charged."""
        group = self._classes[_RANKS[priority]]
        flow = group.flow(tenant)
        flow.counter += tokens / tenant.weight
        if flow.lines:
            group.push(flow)

    def before(self, one: W) -> tuple[int, str]:
        """How many wait in its class beside it, and whose turn it is; empty where that is its own tenant's."""
        group = self._classes[_rank(one)]
        first = group.first()
        name = "" if first is None or first.tenant.name == one.tenant.name else first.tenant.name
        return max(0, group.size - 1), name

    def surplus(self, newcomer: W) -> W | None:
        """Whose place ``newcomer``, who does not wait yet, gets where there is none left: of the lowest class, of the
        tenant of whom, for its weight, the most wait, the one that came last. None: it is one of those itself."""
        mine = self._classes[_rank(newcomer)]
        group = max((each for each in self._classes if each.size), key=lambda each: each.rank)
        own = mine.flows.get(newcomer.tenant.name)
        mark = (mine.rank, (1 + (own.size if own else 0)) / newcomer.tenant.weight)
        flow = max((f for f in group.flows.values() if f.lines), key=lambda f: f.size / f.tenant.weight)
        if mark >= (group.rank, flow.size / flow.tenant.weight):
            return None
        return max((next(reversed(line.waiting)) for line in flow.lines.values()), key=lambda one: one.number)

    def serve(self, means: Means[W]) -> None:
        """Gives everybody a turn, in order, as long as there is anything to be had."""
        in_vain: set[Hashable] = set()
        for group in self._classes:
            if group.size and self._serve(group, means, in_vain, means.ready):
                self._serve(group, means, in_vain, lambda kind: True)

    def _serve(
        self, group: _Class[W], means: Means[W], in_vain: set[Hashable], ready: Callable[[Hashable], bool]
    ) -> bool:
        """Whether some have let others go first, and were not served."""
        aside: dict[_Flow[W], None] = {}
        late: dict[_Line[W], _Flow[W]] = {}
        while means.room() and (flow := group.pop()) is not None:
            if not self._visit(group, flow, means, in_vain, ready, late):
                aside[flow] = None
                continue
            group.push(flow)
            for line, waits in late.items():
                line.passed += 1
                if line.due and waits in aside:
                    del aside[waits]
                    group.push(waits)
        for flow in aside:
            group.push(flow)
        return any(line.waiting for line in late)

    def _visit(
        self, group: _Class[W], flow: _Flow[W], means: Means[W], in_vain: set[Hashable],
        ready: Callable[[Hashable], bool], late: dict[_Line[W], _Flow[W]],
    ) -> bool:
        """Whether one of its requests was served: the oldest that can be."""
        if means.blocked(flow.tenant):
            flow.counter = max(flow.counter, group.time)  # what it cannot use it does not save up
            return False
        for kind, line in sorted(flow.lines.items(), key=lambda item: item[1].first.number):
            while line.waiting and kind not in in_vain:
                if not line.due and not ready(kind):
                    late[line] = flow
                    break
                turn = self._turn(group, flow, line.first, means)
                if turn is ServeResult.SERVED:
                    late.pop(line, None)
                    return True
                if turn is ServeResult.IN_VAIN:
                    in_vain.add(kind)
        return False

    def _turn(self, group: _Class[W], flow: _Flow[W], one: W, means: Means[W]) -> ServeResult:
        start, cost = flow.counter, one.cost / one.tenant.weight
        flow.counter += cost  # before: whoever is told may ask for more at once
        turn = means.serve(one)
        if turn is ServeResult.SERVED:
            group.time = max(group.time, start)
        else:
            flow.counter -= cost
        return turn


def _rank(one: WaitingRequest) -> int:
    return 0 if one.again else _RANKS[one.priority]
