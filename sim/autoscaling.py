"""A day's traffic on as many engines as a rule asks for: the supervisor's own rule, and one like that of the
HorizontalPodAutoscaler of Kubernetes on requests in flight. What comes of it is the share of good requests, and hours
of workers."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from random import Random
from typing import Protocol

from cluster.fleet.autoscaler import Autoscaler, Demand, ScalingRules
from cluster.fleet.pace import EngineReading, GroupPace
from config.topology import BackendSpec
from lb.routing.backend import Backend, Lease
from lb.routing.strategies.adaptive import Adaptive
from lb.routing.strategies.base import AttemptOutcome, Features
from sim.comparison import TPOT
from sim.traces import TraceRow
from worker.sim.engine.batch import BatchEngine, BatchJob
from worker.sim.engine.costs import H100_8B, EngineCosts

_HOUR = 3600.0


class ScalingRule(Protocol):
    """To be asked ``every`` so many seconds."""

    every: float

    def saw(self, readings: Mapping[tuple[str, int], EngineReading], now: float) -> None:
        """What engines say of themselves, before each question."""

    def wanted(self, demand: Demand, count: int, settled: bool, now: float) -> int:
        """Workers, from ``count``, those that start included. ``settled``: none is on its way out."""


class OwnRule:
    """The supervisor's, unchanged, with its defaults but for what a worker is busy enough with."""

    every = 1.0

    def __init__(self, each: float, most: int) -> None:
        self._rules, self._scaler = ScalingRules(1, most, each), Autoscaler()

    def saw(self, readings: Mapping[tuple[str, int], EngineReading], now: float) -> None:
        pass

    def wanted(self, demand: Demand, count: int, settled: bool, now: float) -> int:
        return self._scaler.decide(demand, count, settled, self._rules, now).target


class LearningRule(OwnRule):
    """And what a worker is busy enough with is learnt; it begins with what is named."""

    def __init__(self, each: float, most: int) -> None:
        super().__init__(each, most)
        self._named, self._pace = each, GroupPace()

    def saw(self, readings: Mapping[tuple[str, int], EngineReading], now: float) -> None:
        self._pace.saw(readings, TPOT, now)
        self._rules = replace(self._rules, each=self._pace.each(TPOT, self._named, H100_8B.seats))


class PodRule:
    """On the mean of requests in flight, by the published algorithm and defaults: every 15 s ``ceil(count x mean /
    target)``, nothing within 10 % of it, up by 100 % or 4 a step, down to the largest of what 300 s have asked for
    (kubernetes.io, "Horizontal Pod Autoscaling")."""

    every = 15.0

    def __init__(self, each: float, most: int) -> None:
        self._each, self._most = each, most
        self._asked: deque[tuple[float, int]] = deque()

    def saw(self, readings: Mapping[tuple[str, int], EngineReading], now: float) -> None:
        pass

    def wanted(self, demand: Demand, count: int, settled: bool, now: float) -> int:
        ratio = demand.in_flight / count / self._each
        raw = count if abs(ratio - 1) <= 0.1 + 1e-9 else max(1, min(self._most, math.ceil(count * ratio)))
        self._asked.append((now, raw))
        while self._asked[0][0] < now - 300.0:
            self._asked.popleft()
        if raw > count:
            return min(raw, max(2 * count, count + 4))
        return min(count, max(asked for _, asked in self._asked))


def day(chat: Sequence[TraceRow], code: Sequence[TraceRow], peak: float, hours: float = 24.0) -> Iterator[TraceRow]:
    """Both recordings again and again, stretched over a day: each at ``peak`` times its speed at its busiest, in the
    evening (conversations) and after noon (code), and at a tenth of that twelve hours off."""
    streams = [_stretched(chat, peak, 20.0, hours), _stretched(code, peak, 14.0, hours)]
    ahead = [next(stream, None) for stream in streams]
    while any(ahead):
        which = min((row.at, i) for i, row in enumerate(ahead) if row is not None)[1]
        row = ahead[which]
        assert row is not None
        yield row
        ahead[which] = next(streams[which], None)


def _stretched(rows: Sequence[TraceRow], peak: float, busiest: float, hours: float) -> Iterator[TraceRow]:
    at, before, number = 0.0, 0.0, 0
    while True:
        row = rows[number % len(rows)]
        if number % len(rows) == 0:
            before = row.at
        swing = (1 + math.cos(2 * math.pi * (at / _HOUR - busiest) / 24)) / 2
        at += (row.at - before) / (peak * (0.1 + 0.9 * swing))
        before, number = row.at, number + 1
        if at >= hours * _HOUR:
            return
        yield replace(row, at=at)


@dataclass(slots=True)
class DayResult:
    """``good`` of ``requests`` were within both goals; ``changes`` of the number of workers, of which ``turns`` were up
    after down or down after up within ten minutes."""

    requests: int = 0
    good: int = 0
    worker_hours: float = 0.0
    most: int = 0
    changes: int = 0
    turns: int = 0

    @property
    def goodput(self) -> float:
        return self.good / max(1, self.requests)


@dataclass(eq=False, slots=True)
class _SimWorker:
    engine: BatchEngine
    backend: Backend
    began: float
    ready: float
    leaving: bool = False


class DayRun:
    """Workers take ``start`` s until they are ready, and are paid for from their start until they are empty."""

    def __init__(
        self, costs: EngineCosts, rule: ScalingRule, start: float = 60.0, ttft: float = 2.0, tpot: float = 0.05
    ) -> None:
        self._costs, self._rule, self._start, self._ttft, self._tpot = costs, rule, start, ttft, tpot
        self._strategy = Adaptive(Random(1))
        self._workers: list[_SimWorker] = []
        self._made = 0
        self._due: list[tuple[float, int, _SimWorker]] = []
        self._open: dict[int, tuple[Lease, Features]] = {}
        self._last = (0, -math.inf)
        self.result = DayResult()
        self._add(-start)

    def drive(self, rows: Iterator[TraceRow]) -> DayResult:
        look = 0.0
        for number, row in enumerate(rows):
            while look <= row.at:
                self._until(look)
                self._look(look)
                look += self._rule.every
            self._until(row.at)
            self._send(number, row)
        self._until(math.inf)
        for worker in self._workers:
            self.result.worker_hours += (max(look, worker.began) - worker.began) / _HOUR
        return self.result

    # workers

    def _add(self, now: float) -> None:
        self._made += 1
        spec = BackendSpec(str(self._made), 1, "ready", "http", "127.0.0.1", 1, models=({"id": "base"},))
        worker = _SimWorker(BatchEngine(self._costs, 1, 1, self._first, self._end), Backend(spec), now,
                            now + self._start)  # fmt: skip
        self._workers.append(worker)
        self._strategy.joined(worker.backend)

    def _look(self, now: float) -> None:
        for worker in [w for w in self._workers if w.leaving and not w.backend.in_flight]:
            self._workers.remove(worker)
            self._strategy.left(worker.backend)
            self.result.worker_hours += (now - worker.began) / _HOUR
        staying = [w for w in self._workers if not w.leaving]
        settled = len(staying) == len(self._workers) and all(w.ready <= now for w in staying)
        demand = Demand(sum(w.backend.in_flight for w in self._workers), 0, self._strategy.unread())
        self._rule.saw({
            worker.backend.key: EngineReading(worker.engine.running, worker.engine.made_by(now))
            for worker in staying if worker.ready <= now
        }, now)
        wanted = self._rule.wanted(demand, len(staying), settled, now)
        if wanted != len(staying):
            self._changed(1 if wanted > len(staying) else -1, now)
        for _ in range(wanted - len(staying)):
            self._add(now)
        for worker in staying[wanted:]:
            worker.leaving = True
        self.result.most = max(self.result.most, wanted)

    def _changed(self, way: int, now: float) -> None:
        self.result.changes += 1
        if way != self._last[0] and now - self._last[1] < 600.0:
            self.result.turns += 1
        self._last = (way, now)

    # requests

    def _send(self, number: int, row: TraceRow) -> None:
        workers = [w for w in self._workers if not w.leaving and w.ready <= row.at]
        features = Features(tokens=row.prompt, stream=True)
        chosen, _ = self._strategy.choose([w.backend for w in workers], features)
        worker = next(w for w in workers if w.backend is chosen)
        self._open[number] = chosen.lease(_nobody_dies), features
        self._strategy.sent(chosen, features)
        self.result.requests += 1
        before = worker.engine.due
        worker.engine.submit(BatchJob(number, row.at, row.prompt, row.output, None, 0), row.at)
        if worker.engine.due < before:
            heappush(self._due, (worker.engine.due, int(chosen.id), worker))

    def _until(self, now: float) -> None:
        due = self._due
        while due and due[0][0] <= now:
            at, order, worker = heappop(due)
            if worker.engine.due == at:
                worker.engine.advance()
                if worker.engine.due < math.inf:
                    heappush(due, (worker.engine.due, order, worker))

    def _first(self, job: BatchJob, now: float) -> None:
        lease, features = self._open[job.number]
        self._strategy.began(lease.backend.key, features, now - job.arrived)

    def _end(self, job: BatchJob, now: float) -> None:
        lease, features = self._open.pop(job.number)
        lease.release()
        first = job.first - job.arrived
        pace = (now - job.first) / max(1, job.made - 1)
        self.result.good += first <= self._ttft and pace <= self._tpot
        self._strategy.observe(
            AttemptOutcome(lease.backend.key, features, 200, now - job.arrived, first, tokens=job.made)
        )


def _nobody_dies(reason: str) -> None:
    raise AssertionError(reason)


#: By name, made with the requests that a worker is busy enough with and the most workers.
RULES: dict[str, Callable[[float, int], ScalingRule]] = {"own": OwnRule, "own, learnt": LearningRule, "pods": PodRule}
