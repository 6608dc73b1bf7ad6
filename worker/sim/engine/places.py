"""Places in the batch of the simulated engine, its adapter slots, and who waits for either."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from worker.sim.engine.jobs import Job
from worker.sim.engine.metrics import SimMetrics

# Tokens the imagined KV cache holds.
_KV_TOKENS = 1 << 18


class Places:
    """``max_num_seqs`` sequences and ``max_loras`` adapters at a time."""

    def __init__(self, metrics: SimMetrics, max_num_seqs: int, max_loras: int) -> None:
        self._metrics, self._max_num_seqs, self._max_loras = metrics, max_num_seqs, max_loras
        self.running = 0
        self.waiting: list[Job] = []
        self._adapters: Counter[str] = Counter()
        self._loras_seen: tuple[list[str], list[str]] = ([], [])

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

    def leave(self, job: Job) -> None:
        """It gives back what it has, or is not to wait any more."""
        if not job.granted:
            self.waiting.remove(job)
            return
        self.running -= job.open
        if job.adapter is not None:
            self._adapters[job.adapter] -= 1

    def update_gauges(self, jobs: Iterable[Job]) -> None:
        """Write the state of batch and queue into the metrics; ``jobs`` are all that have begun."""
        gauges = self._metrics.gauges
        deferred = [job for job in self.waiting if self._deferred(job)]
        gauges["num_requests_running"].set(self.running)
        gauges["num_requests_waiting"].set(sum(job.open for job in self.waiting))
        capacity = sum(job.open for job in self.waiting if job not in deferred)
        gauges["num_requests_waiting_by_reason:capacity"].set(capacity)
        gauges["num_requests_waiting_by_reason:deferred"].set(sum(job.open for job in deferred))
        used = sum(len(p) for job in jobs if job.granted for p in job.prompts)
        used += sum(len(s.token_ids) for job in jobs for s in job.sequences)
        gauges["kv_cache_usage_perc"].set(min(1.0, used / _KV_TOKENS))

    def _deferred(self, job: Job) -> bool:
        new = job.adapter is not None and not self._adapters[job.adapter]
        return new and len(+self._adapters) >= self._max_loras

    def _note_loras(self) -> None:
        waiting = sorted({job.adapter for job in self.waiting if job.adapter})
        seen = (sorted(+self._adapters), waiting)
        if seen != self._loras_seen:
            self._loras_seen = seen
            self._metrics.loras(*seen)
