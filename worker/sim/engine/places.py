"""Who computes when: places in the batch of the simulated engine, its adapter slots, and who waits for either."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Protocol

from worker.sim.engine.metrics import SimMetrics
from worker.sim.engine.requests import EngineRequest, PrefixCache, Timing

# Tokens the imagined KV cache holds.
_KV_TOKENS = 1 << 18


class Schedule(Protocol):
    """``running`` sequences have a place, ``queued`` wait for one. Times are the loop's."""

    @property
    def running(self) -> int: ...

    @property
    def queued(self) -> int: ...

    def enter(self, job: EngineRequest) -> None:
        """It waits from now on, until it is ``granted``."""

    def cached(self, job: EngineRequest) -> list[int]:
        """Of each prompt the tokens that need not be read; asked once it is granted."""

    def first_due(self, job: EngineRequest) -> float | None:
        """When to ask what it `made`; None: it is woken."""

    def next_due(self, job: EngineRequest, last: float | None) -> float | None:
        """The time after ``last``."""

    def made(self, job: EngineRequest) -> list[int]:
        """For each new token the index of its sequence."""

    def ended(self, job: EngineRequest, index: int) -> None:
        """One of its sequences is finished."""

    def leave(self, job: EngineRequest) -> None:
        """It gives back what it has, or is not to wait any more."""

    def schedule(self) -> None:
        """Free places go to those who wait."""

    def hang(self, on: bool) -> None:
        """Time stands still, or goes on."""

    def hold(self, adapter: str, rank: int) -> float:
        """It is loaded; so many seconds that takes."""

    def drop(self, adapter: str) -> None:
        """It is unloaded."""

    def update_gauges(self, jobs: Iterable[EngineRequest]) -> None:
        """Write the state of batch and queue into the metrics; ``jobs`` are all that have begun."""


class Places:
    """``max_num_seqs`` sequences and ``max_loras`` adapters at a time; each steps on its own clock. ``slowness`` is
    asked at every step and multiplies all times."""

    def __init__(
        self, metrics: SimMetrics, timing: Timing, max_num_seqs: int, max_loras: int, slowness: Callable[[], float]
    ) -> None:
        self._metrics, self._max_num_seqs, self._max_loras = metrics, max_num_seqs, max_loras
        self._timing, self._slowness, self._cache = timing, slowness, PrefixCache()
        self.running = 0
        self.waiting: list[EngineRequest] = []
        self._adapters: Counter[str] = Counter()
        self._loras_seen: tuple[list[str], list[str]] = ([], [])

    @property
    def queued(self) -> int:
        return sum(job.open for job in self.waiting)

    def enter(self, job: EngineRequest) -> None:
        self.waiting.append(job)

    def cached(self, job: EngineRequest) -> list[int]:
        return [self._cache.read(job.model, prompt) for prompt in job.prompts]

    def first_due(self, job: EngineRequest) -> float | None:
        return asyncio.get_running_loop().time() + self._timing.ttft_s * self._slowness()

    def next_due(self, job: EngineRequest, last: float | None) -> float | None:
        return max(asyncio.get_running_loop().time(), (last or 0.0) + self._timing.itl_s * self._slowness())

    def made(self, job: EngineRequest) -> list[int]:
        return [index for index, sequence in enumerate(job.sequences) if sequence.finish_reason is None]

    def ended(self, job: EngineRequest, index: int) -> None:
        self.running -= 1

    def hang(self, on: bool) -> None:
        """Each waits by itself."""

    def hold(self, adapter: str, rank: int) -> float:
        return 0.0

    def drop(self, adapter: str) -> None:
        """Nothing is kept of it."""

    def schedule(self) -> None:
        """Give free places to those who waited longest; a full adapter slot defers, a full batch stops."""
        for job in list(self.waiting):
            if self._deferred(job):
                continue
            if self.running and self.running + job.open > self._max_num_seqs:
                break
            self.waiting.remove(job)
            self.running += job.open
            if job.adapter is not None:
                self._adapters[job.adapter] += 1
            job.granted = True
            job.wake()
        self._note_loras()

    def leave(self, job: EngineRequest) -> None:
        if not job.granted:
            self.waiting.remove(job)
            return
        self.running -= job.open
        if job.adapter is not None:
            self._adapters[job.adapter] -= 1

    def update_gauges(self, jobs: Iterable[EngineRequest]) -> None:
        gauges = self._metrics.gauges
        deferred = [job for job in self.waiting if self._deferred(job)]
        gauges["num_requests_running"].set(self.running)
        gauges["num_requests_waiting"].set(self.queued)
        capacity = sum(job.open for job in self.waiting if job not in deferred)
        gauges["num_requests_waiting_by_reason:capacity"].set(capacity)
        gauges["num_requests_waiting_by_reason:deferred"].set(sum(job.open for job in deferred))
        used = sum(len(p) for job in jobs if job.granted for p in job.prompts)
        used += sum(len(s.token_ids) for job in jobs for s in job.sequences)
        gauges["kv_cache_usage_perc"].set(min(1.0, used / _KV_TOKENS))

    def _deferred(self, job: EngineRequest) -> bool:
        new = job.adapter is not None and not self._adapters[job.adapter]
        return new and len(+self._adapters) >= self._max_loras

    def _note_loras(self) -> None:
        waiting = sorted({job.adapter for job in self.waiting if job.adapter})
        seen = (sorted(+self._adapters), waiting)
        if seen != self._loras_seen:
            self._loras_seen = seen
            self._metrics.loras(*seen)
