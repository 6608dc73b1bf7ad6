"""Running streams that are moved to free a slot for adapters that wait: does it win? As the balancer does it
(`lb.forwarding.resume.displacement`): it looks at each stream twice a second, and the other worker reads all of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from heapq import heappush
from random import Random

from cluster.adapters.homes import Homes
from lb.routing.strategies.base import AttemptOutcome, Features, Strategy
from sim.simulation import Run, Setting
from worker.sim.engine.batch import BatchEngine, BatchJob

#: Seconds between two looks.
_EVERY = 0.5

#: A stream is not moved more often.
_MOST_MOVES = 3


class MovingRun(Run):
    """Counts the streams that it has ``moved``."""

    def __init__(
        self, strategy: Callable[[Random], Strategy], setting: Setting, homes: Homes | None = None, seed: int = 0
    ) -> None:
        super().__init__(strategy, setting, homes, seed)
        self.moved, self._look = 0, 0.0
        self._moves: Counter[int] = Counter()
        #: Of streams that were moved: when their first token came, and when they were moved last.
        self._begun: dict[int, tuple[float, float]] = {}

    def _until(self, now: float, due: list[tuple[float, int]]) -> None:
        while self._look <= now < math.inf:
            super()._until(self._look, due)
            for worker, engine in enumerate(self._engines):
                if len(engine.active) >= engine.slots and engine.lines.count:
                    self._relieve(worker, engine, due)
            self._look += _EVERY
        super()._until(now, due)

    def _relieve(self, worker: int, engine: BatchEngine, due: list[tuple[float, int]]) -> None:
        begun = Counter(job.adapter for job in engine.streams())
        for job in engine.streams():
            waiting = sum(len(line) for name, line in engine.lines.by_adapter.items() if name not in begun)
            if self._moves[job.number] < _MOST_MOVES and self._pays(worker, engine, job, waiting):
                self._move(job, engine, due)

    def _pays(self, worker: int, engine: BatchEngine, job: BatchJob, waiting: int) -> bool:
        balancer, lease, _ = self._attempts[job.number]
        others = [other for other in balancer.backends if other is not lease.backend]
        return balancer.strategy.worth_moving(lease.backend, others, self._features(job, engine), waiting)

    def _features(self, job: BatchJob, engine: BatchEngine) -> Features:
        tokens = job.prompt + _made(job, engine, self._look)
        return Features(adapter=job.adapter, tokens=tokens, blocks=job.blocks, stream=True)

    def _move(self, job: BatchJob, engine: BatchEngine, due: list[tuple[float, int]]) -> None:
        now, made, features = self._look, _made(job, engine, self._look), self._features(job, engine)
        if made >= job.output:
            return
        number = job.number
        balancer, lease, before = self._attempts[number]
        lease.release()
        balancer.strategy.observe(AttemptOutcome(lease.backend.key, before, 0, now - job.arrived))
        engine.cancel(job, now)
        self._wake(int(lease.backend.id), due)
        others = [other for other in balancer.backends if other is not lease.backend]
        target, _ = balancer.strategy.choose(others, features)
        self._attempts[number] = balancer, target.lease(_nobody_dies, None, job.adapter), features
        balancer.strategy.sent(target, features)
        again = BatchJob(number, job.arrived, job.prompt + made, job.output - made, job.adapter, job.rank, job.blocks)
        again.made, self._begun[number] = job.made, (job.first, now)
        self._engines[int(target.id)].submit(again, now)
        self._wake(int(target.id), due)
        self.moved, self._moves[number] = self.moved + 1, self._moves[number] + 1

    def _first(self, job: BatchJob, now: float) -> None:
        begun = self._begun.get(job.number)
        if begun is None:
            super()._first(job, now)
            return
        job.first = begun[0]  # its client has had it
        balancer, lease, features = self._attempts[job.number]
        balancer.strategy.began(lease.backend.key, features, now - begun[1])

    def _wake(self, worker: int, due: list[tuple[float, int]]) -> None:
        if (at := self._engines[worker].due) < math.inf:
            heappush(due, (at, worker))


def _made(job: BatchJob, engine: BatchEngine, now: float) -> int:
    """When the step that is on is over, with which it leaves."""
    return engine.made(job) + engine.steps_over(now) + 1


def _nobody_dies(reason: str) -> None:
    raise AssertionError(reason)
