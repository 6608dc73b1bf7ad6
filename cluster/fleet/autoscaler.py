"""How many workers the load needs. Pure: the time is handed in, and nothing happens here.

Up when more than `_TOLERANCE` over what there is has been needed for a while, at once when twice of it is, to at most
twice as many. Down by one when the most that was needed in a longer while would keep less than `_CALM` of the workers
busy that would be left. Between the two lies what keeps it from flapping: what brings a worker up is over 100 % of
those before it, what takes it away again is under 60 % of those.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from cluster.fleet.instance import Instance
from cluster.fleet.states import WorkerState

#: Over what there is, by this share of it: more are needed. Of those that would be left, so much: fewer are enough.
_TOLERANCE, _CALM = 0.1, 0.6

#: Times what there is: at once. And times what there is at most in one step.
_PANIC, _STEP = 2.0, 2

#: A ratio is not taken for more than it is because of how floats are added.
_EXACT = 1e-9


@dataclass(frozen=True, slots=True)
class Demand:
    """What balancers report. ``in_flight``: requests on workers; ``queued``: those that wait for room on one;
    ``unread``: s of one worker's time that prompts not read yet take, 0 where nobody knows."""

    in_flight: int = 0
    queued: int = 0
    unread: float = 0.0


@dataclass(frozen=True, slots=True)
class ScalingRules:
    """``least``..``most`` workers, each busy enough with ``each`` requests and with ``ttft`` seconds of prompts to
    read. More after ``up_after`` s, fewer after ``down_after``."""

    least: int
    most: int
    each: float
    ttft: float = 2.0
    up_after: float = 10.0
    down_after: float = 300.0

    def needed(self, demand: Demand) -> float:
        """Workers, and parts of one."""
        requests = (demand.in_flight + demand.queued) / self.each
        return max(requests, demand.unread / self.ttft)


@dataclass(frozen=True, slots=True)
class ScalingDecision:
    """``target`` workers, and why. ``needed``: workers and parts of one that the load needs, of late."""

    target: int
    needed: float
    reason: str


class _Extreme:
    """The least (``sign`` -1: the most) of what came within a while. It is none before it has looked for that long."""

    def __init__(self, sign: int = 1) -> None:
        self._sign = sign
        self._values: deque[tuple[float, float]] = deque()
        self._since = math.inf

    def add(self, now: float, value: float) -> None:
        self._since = min(self._since, now)
        value *= self._sign
        while self._values and self._values[-1][1] >= value:
            self._values.pop()
        self._values.append((now, value))

    def over(self, now: float, seconds: float) -> float | None:
        while len(self._values) > 1 and self._values[0][0] < now - seconds:
            self._values.popleft()
        return self._sign * self._values[0][1] if now - self._since >= seconds and self._values else None

    def clear(self) -> None:
        self._values.clear()
        self._since = math.inf


class Autoscaler:
    """To be asked about once a second: what it remembers is the load of the last ``down_after`` seconds."""

    def __init__(self) -> None:
        self._least, self._most = _Extreme(), _Extreme(-1)
        self._count: int | None = None

    def decide(self, demand: Demand, count: int, settled: bool, rules: ScalingRules, now: float) -> ScalingDecision:
        """From ``count`` workers, those that start included. ``settled``: none of them is on its way out. Whoever
        changes the count but by what was decided here begins the while anew: somebody wanted it so. ``now``: s,
        monotonic."""
        if count != self._count:
            self._least.clear()
            self._most.clear()
        needed = rules.needed(demand)
        self._least.add(now, needed)
        self._most.add(now, needed)
        decision = self._bounded(count, needed, settled, rules, now)
        self._count = decision.target
        return decision

    def taken_back(self, count: int) -> None:
        """What was decided last could not be done: there are ``count`` still."""
        self._count = count

    def _bounded(
        self, count: int, needed: float, settled: bool, rules: ScalingRules, now: float
    ) -> ScalingDecision:
        least, most = min(rules.least, rules.most), rules.most
        if count < least:
            return ScalingDecision(least, needed, f"at least {least} are wanted now")
        if count > most and settled:
            return ScalingDecision(count - 1, needed, f"there may be {most} at most")
        up = self._up(count, needed, rules, now)
        if up is not None and up.target > count:
            return up
        calm = self._most.over(now, rules.down_after)
        if settled and count > least and calm is not None and calm < _CALM * (count - 1):
            words = f"never more than {calm:.2f} needed in {rules.down_after:g} s"
            return ScalingDecision(count - 1, needed, words)
        return ScalingDecision(count, needed, "")

    def _up(self, count: int, needed: float, rules: ScalingRules, now: float) -> ScalingDecision | None:
        lasting = self._least.over(now, rules.up_after)
        if needed >= _PANIC * max(1, count):
            wanted, words = needed, f"{needed:.2f} needed, twice what there is"
        elif lasting is not None and lasting > (1 + _TOLERANCE) * count + _EXACT:
            wanted, words = lasting, f"{lasting:.2f} needed for {rules.up_after:g} s"
        else:
            return None
        target = min(math.ceil(wanted - _EXACT), _STEP * max(1, count), rules.most)
        return ScalingDecision(target, needed, words)


def seats_of(instances: Iterable[Instance]) -> int | None:
    """Requests that a worker computes at a time, the least of what any says; None while none has said."""
    return min((i.seats for i in instances if i.seats), default=None)


def least_missed(instances: Iterable[Instance]) -> str:
    """The id of the worker to go: one that serves nobody, else the one with the fewest adapters that only it holds,
    else the newest. Raises ValueError where there is none."""
    there = list(instances)
    serving = [i for i in there if i.state is WorkerState.READY]

    def missed(one: Instance) -> tuple[bool, int, int]:
        others = {name for other in serving if other is not one for name in other.adapters.loaded}
        alone = 0 if one not in serving else len(one.adapters.loaded.keys() - others)
        return (one.state is WorkerState.READY, alone, -one.number)

    return min(there, key=missed).id
