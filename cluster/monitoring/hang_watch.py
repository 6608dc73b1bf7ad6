"""Asks one server for its progress and, when it is idle or in doubt, for a token; reports what comes of it.

It runs beside the probes: one that hangs in a probe is judged here all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from cluster.monitoring.hang_detector import Hang, HangDetector, Work
from config.aio import Tasks
from worker.probe import ProbeFailed, Target
from worker.progress import Reading

_T = TypeVar("_T")

#: Of the stall timeout, between two looks; and the most (s), for workers of ours and for others: what looks like one
#: server may be a cluster that asks all of its workers.
_EVERY, _MOST, _MOST_FOREIGN = 1 / 8, 0.5, 1.0

#: Seconds after which an answer is not waited for any more. What a missing one means was decided long before.
_ANSWER_S = 120.0

#: An engine's error: 503 only says that it is full.
_FULL = 503


@dataclass(frozen=True, slots=True)
class Watched:
    """``model()`` is asked for a token; ``work()`` what others know of its requests."""

    target: Target
    model: Callable[[], str | None]
    work: Callable[[], Work]


class HangReporter(Protocol):
    def progress(self, seen_at: float | None, without_progress: str) -> None:
        """When (s, monotonic) it was last seen to make progress, and in words how long it has made none."""

    def hung(self, hang: Hang) -> None:
        """Said again and again as long as it is; ``seconds`` are those of the first time, the reason is the latest."""

    def going(self) -> None:
        """It has made progress after it had been said to be hung."""


async def watch(watched: Watched, detector: HangDetector, report: HangReporter, clock: Callable[[], float]) -> None:
    """Until cancelled. ``clock``: s, monotonic."""
    watch = _Watch(watched, detector, report)
    try:
        while True:
            interval = min(_MOST if detector.rules.ours else _MOST_FOREIGN, detector.rules.stall * _EVERY)
            watch.step(clock(), interval)
            await watch.pause(interval)
    finally:
        await watch.close()


class _Watch:
    def __init__(self, watched: Watched, detector: HangDetector, report: HangReporter) -> None:
        self._watched, self._detector, self._report = watched, detector, report
        self._look: asyncio.Task[Reading | ProbeFailed | None] | None = None
        self._canary: asyncio.Task[ProbeFailed | None] | None = None
        self._tasks = Tasks()
        self._hung_since: float | None = None
        self._seconds = 0.0

    async def close(self) -> None:
        await self._tasks.close()

    async def pause(self, interval: float) -> None:
        """Until something has been answered or is due, for ``interval`` seconds at most."""
        pause = min(interval, max(interval / 10, self._detector.due_in(self._watched.work())))
        waiting = [task for task in (self._look, self._canary) if task is not None]
        if waiting:
            await asyncio.wait(waiting, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(pause)

    def step(self, now: float, interval: float) -> None:
        detector, watched = self._detector, self._watched
        detector.tick(now)
        self._take_answers()
        work = watched.work()
        hang = detector.verdict(work)
        self._report.progress(detector.seen_at, detector.without_progress(work))
        if hang is not None:
            if self._hung_since != detector.moved:
                self._hung_since, self._seconds = detector.moved, hang.seconds
            self._report.hung(replace(hang, seconds=self._seconds))
        elif self._hung_since is not None and detector.moved > self._hung_since:
            self._hung_since = None
            self._report.going()
        if self._look is None and detector.wants_look(interval, work):
            detector.looking()
            self._look = self._tasks.start(_answer(watched.target.progress(_ANSWER_S)), "look at progress")
        if self._canary is None and detector.wants_canary(work) and (model := watched.model()) is not None:
            detector.canary_sent()
            self._canary = self._tasks.start(_answer(watched.target.one_token(model, _ANSWER_S)), "canary")

    def _take_answers(self) -> None:
        detector = self._detector
        if self._look is not None and self._look.done():
            reading, self._look = self._look.result(), None
            if not isinstance(reading, ProbeFailed):
                detector.looked(reading)
            elif not reading.slow:
                detector.refused()
        if self._canary is not None and self._canary.done():
            error, self._canary = self._canary.result(), None
            if error is None:
                detector.canary_back()
            else:
                status = error.status or 0
                detector.canary_back(str(error), engines=status >= 500 and status != _FULL)


async def _answer(asked: Awaitable[_T]) -> _T | ProbeFailed:
    try:
        return await asked
    except ProbeFailed as error:
        return error
