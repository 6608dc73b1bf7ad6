"""All requests in one batch whose steps take as long as a machine's (`worker.sim.engine.batch`), in the loop's time.

The batch has a clock of its own, in seconds of that machine: it goes slower than the loop's by ``pace``, so that who
measures is not what is measured, and stands still while the engine hangs. A timer that comes late makes no step later.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from worker.sim.engine.batch import BatchEngine, BatchJob
from worker.sim.engine.costs import BLOCK, EngineCosts
from worker.sim.engine.metrics import SimMetrics
from worker.sim.engine.requests import EngineRequest

#: A timer may come so many seconds early, by rounding.
_EARLY = 1e-9


@dataclass(slots=True)
class _Computed:
    """One sequence: its request has been told of so many tokens."""

    job: BatchJob
    told: int = 0


class SharedBatch:
    """A `worker.sim.engine.places.Schedule`. ``slots``: adapters at a time, ``places``: those in host memory. Tokens
    are made known ``interval`` steps at a time. ``slowness`` is asked at every step and multiplies all times."""

    def __init__(
        self, metrics: SimMetrics, costs: EngineCosts, *, slots: int, places: int, pace: float, interval: int,
        slowness: Callable[[], float],
    ) -> None:
        self._metrics, self._costs, self._slots = metrics, costs, slots
        self._batch = BatchEngine(costs, slots, places, _ignore, _ignore, most_steps=interval)
        self._clock = _PacedTime(pace)
        self._pace, self._slowness = pace, slowness
        self._jobs: dict[EngineRequest, list[_Computed]] = {}
        self._number = self._preempted = 0
        self._hanging = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def running(self) -> int:
        return self._batch.running

    @property
    def queued(self) -> int:
        return self._batch.lines.count

    # a request

    def enter(self, job: EngineRequest) -> None:
        now = self._now()
        computed = self._jobs[job] = []
        for index, sequence in enumerate(job.sequences):
            prompt, most = job.prompts[index // job.n], sequence.params.max_tokens
            self._number += 1
            one = BatchJob(self._number, now, max(1, len(prompt)), most, job.adapter, job.rank, _blocks(prompt))
            computed.append(_Computed(one))
            self._batch.submit(one, now)
        self._go_on()

    def cached(self, job: EngineRequest) -> list[int]:
        return [each.job.cached for each in self._jobs[job][:: job.n]]

    def first_due(self, job: EngineRequest) -> float | None:
        return 0.0 if any(map(self._new, self._jobs[job])) else None

    def next_due(self, job: EngineRequest, last: float | None) -> float | None:
        return self.first_due(job)

    def made(self, job: EngineRequest) -> list[int]:
        found = []
        for index, each in enumerate(self._jobs[job]):
            new = self._new(each)
            each.told += new
            found += [index] * new
        return found

    def ended(self, job: EngineRequest, index: int) -> None:
        each = self._jobs[job][index]
        each.told = each.job.made
        self._cancel([each])

    def leave(self, job: EngineRequest) -> None:
        self._cancel(self._jobs.pop(job))

    def _new(self, each: _Computed) -> int:
        if not math.isnan(each.job.ended):
            return each.job.made - each.told
        return each.job.made - each.job.output + self._batch.made(each.job) - each.told

    def _cancel(self, computed: Iterable[_Computed]) -> None:
        left = [each.job for each in computed if math.isnan(each.job.ended)]
        if left:
            now = self._now()
            for job in left:
                self._batch.cancel(job, now)
            self._go_on()

    # adapters

    def hold(self, adapter: str, rank: int) -> float:
        seconds = self._batch.hold(adapter, rank, self._now())
        self._go_on()
        return seconds / self._pace

    def drop(self, adapter: str) -> None:
        self._batch.adapters.drop(adapter)

    # time

    def schedule(self) -> None:
        """Nothing to be done: the batch is planned step by step."""

    def hang(self, on: bool) -> None:
        if on != self._hanging:
            self._now()
            self._hanging = on
            self._go_on()

    def _now(self) -> float:
        """The batch's time, all steps up to it done."""
        now = self._clock.now()
        while self._batch.due <= now + _EARLY:
            self._batch.advance()
        return now

    def _turn(self) -> None:
        self._now()
        self._go_on()

    def _go_on(self) -> None:
        """Who has something new hears of it, and the timer is set for the end of the step that is on."""
        for job, computed in self._jobs.items():
            if not job.granted:
                if not self._hanging and all(each.job.runs or not math.isnan(each.job.first) for each in computed):
                    job.granted = True
                    job.wake()
            elif job.waker is not None and any(map(self._new, computed)):
                job.wake()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._clock.speed = 0.0 if self._hanging else self._pace / self._slowness()
        if self._clock.speed and self._batch.due < math.inf:
            self._timer = asyncio.get_running_loop().call_at(self._clock.when(self._batch.due), self._turn)

    # what is shown

    def update_gauges(self, jobs: Iterable[EngineRequest]) -> None:
        gauges, batch = self._metrics.gauges, self._batch
        full = len(batch.active) >= self._slots
        lines = batch.lines.by_adapter.items()
        deferred = sum(len(line) for name, line in lines if full and name is not None and name not in batch.active)
        gauges["num_requests_running"].set(batch.running)
        gauges["num_requests_waiting"].set(batch.lines.count)
        gauges["num_requests_waiting_by_reason:capacity"].set(batch.lines.count - deferred)
        gauges["num_requests_waiting_by_reason:deferred"].set(deferred)
        gauges["kv_cache_usage_perc"].set(min(1.0, batch.kv / self._costs.kv_tokens))
        self._metrics.counters["num_preemptions"].inc(batch.preemptions - self._preempted)
        self._preempted = batch.preemptions
        self._metrics.loras(sorted(filter(None, batch.active)), sorted(filter(None, batch.lines.by_adapter)))


class _PacedTime:
    """The loop's time from now on, at ``speed``."""

    def __init__(self, speed: float) -> None:
        self._speed, self._seen, self._time = speed, asyncio.get_running_loop().time(), 0.0

    def now(self) -> float:
        seen = asyncio.get_running_loop().time()
        self._time += (seen - self._seen) * self._speed
        self._seen = seen
        return self._time

    def when(self, time: float) -> float:
        """The loop's time then."""
        return self._seen + (time - self._time) / self._speed

    @property
    def speed(self) -> float:
        return self._speed

    @speed.setter
    def speed(self, speed: float) -> None:
        if speed != self._speed:
            self.now()
            self._speed = speed


def _blocks(prompt: list[int]) -> tuple[int, ...]:
    chain, found = 0, []
    for start in range(0, len(prompt) - BLOCK + 1, BLOCK):
        chain = hash((chain, *prompt[start : start + BLOCK]))
        found.append(chain)
    return tuple(found)


def _ignore(job: BatchJob, now: float) -> None:
    """What came of it is asked for."""
