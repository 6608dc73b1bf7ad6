"""Which jobs there are, which may start, what becomes of each: queued → running → done, failed or cancelled. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import Refused
from cluster.jobs.record import JobRecord, JobState

#: Jobs that wait or run, and those that have ended and are remembered, for so many seconds at most.
MOST_OPEN, MOST_ENDED, KEPT_S = 100, 100, 30 * 86400.0

#: Transfers at the same time: they wait for others most of the time.
TRANSFERS = 3


@dataclass(slots=True)
class JobTotals:
    """Of what has ended since the supervisor was started: how many by kind and state, and their seconds by kind."""

    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    seconds: dict[str, float] = field(default_factory=dict)


class JobRegistry:
    """``at_once()``: jobs that may compute at the same time. Jobs are in the order in which they were asked for."""

    def __init__(self, at_once: Callable[[], int]) -> None:
        self._at_once = at_once
        self.jobs: dict[str, JobRecord] = {}
        self.totals = JobTotals()

    def find(self, name: str) -> JobRecord:
        """Raises Refused (404)."""
        if (job := self.jobs.get(name)) is None:
            raise Refused(404, f"no job {name[:100]!r}", "id")
        return job

    def check_room(self) -> None:
        """Raises Refused (409) where too many wait."""
        if sum(not job.ended for job in self.jobs.values()) >= MOST_OPEN:
            raise Refused(409, f"{MOST_OPEN} jobs wait or run: cancel one, or wait until one has ended")

    def add(self, job: JobRecord) -> None:
        self.jobs[job.id] = job

    def startable(self) -> list[JobRecord]:
        """Those that may start, the first first; ask again when one has begun."""
        running = Counter(job.computes for job in self._in(JobState.RUNNING))
        room = {True: running[True] < self._at_once(), False: running[False] < TRANSFERS}
        return [job for job in self._in(JobState.QUEUED) if room[job.computes]]

    def begin(self, job: JobRecord, at: float, gpus: Iterable[int], background: bool) -> None:
        _expect(job, JobState.QUEUED)
        job.state, job.started_at, job.gpus, job.background = JobState.RUNNING, at, tuple(gpus), background

    def end(
        self, job: JobRecord, at: float, state: JobState, error: str | None = None, status: int | None = None
    ) -> None:
        _expect(job, JobState.QUEUED, JobState.RUNNING)
        job.state, job.ended_at, job.error, job.status = state, at, error, status
        self.totals.ended[job.kind, str(state)] += 1
        if job.started_at is not None:
            so_far = self.totals.seconds.get(job.kind, 0.0)
            self.totals.seconds[job.kind] = so_far + max(0.0, at - job.started_at)

    def cancel(self, job: JobRecord, at: float) -> bool:
        """Whether its process is to be asked to end; one that waits has ended with this. Raises Refused (409)."""
        if job.ended:
            raise Refused(409, f"{job.id} has ended already: {job.state}", "id")
        if job.state is JobState.QUEUED:
            self.end(job, at, JobState.CANCELLED, "cancelled before it began", 499)
            return False
        asked, job.cancelling = job.cancelling, True
        return not asked

    def forget(self, now: float) -> list[str]:
        """The ids of those that are forgotten with this: the oldest of too many, and what is too old."""
        ended = [job for job in self.jobs.values() if job.ended]
        old = [job.id for job in ended if now - (job.ended_at or 0.0) > KEPT_S]
        gone = list(dict.fromkeys([*(job.id for job in ended[: max(0, len(ended) - MOST_ENDED)]), *old]))
        for name in gone:
            del self.jobs[name]
        return gone

    def to_json(self) -> list[dict[str, Any]]:
        """Of each job, for `cluster.jobs.record.from_json`."""
        return [job.to_json() for job in self.jobs.values()]

    def running(self) -> list[JobRecord]:
        return list(self._in(JobState.RUNNING))

    def describe(self) -> dict[str, Any]:
        """How many there are by kind and state, and what has ended, for metrics."""
        now = Counter((job.kind, str(job.state)) for job in self.jobs.values() if not job.ended)
        return {
            "open": _counts(now), "ended": _counts(self.totals.ended),
            "seconds": dict(self.totals.seconds),
        }

    def _in(self, state: JobState) -> Iterator[JobRecord]:
        return (job for job in self.jobs.values() if job.state is state)


def _counts(of: Counter[tuple[str, str]]) -> list[dict[str, Any]]:
    return [{"kind": kind, "state": state, "count": count} for (kind, state), count in of.items()]


def _expect(job: JobRecord, *states: JobState) -> None:
    if job.state not in states:
        raise ValueError(f"{job.id} is {job.state}")
