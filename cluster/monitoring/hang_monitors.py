"""Every worker and server is watched for hangs, and what follows is brought into the supervisor's inbox.

What is seen of their progress (`ProgressFinding`) belongs to these monitors: nothing is decided by it but here, and
status shows it. One that hangs in a probe is judged here all the same, as both run beside each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, TypeVar
from weakref import WeakSet

from cluster.fleet.groups import WorkerGroup
from cluster.fleet.instance import Instance
from cluster.fleet.states import WorkerState
from cluster.monitoring.ejection_limit import EjectionLimit
from cluster.monitoring.external import ExternalBackend
from cluster.monitoring.hang_detector import Hang, HangDetector, Rules, Work
from cluster.monitoring.probes import stretch
from cluster.monitoring.recovery_times import RecoveryTimes
from config.aio import Tasks
from config.settings import Settings
from worker.probe import ProbeFailed, Target
from worker.progress import Reading

_T = TypeVar("_T")

#: Of the stall timeout, between two looks; and the most (s), for workers of ours and for others: what looks like one
#: server may be a cluster that asks all of its workers.
_EVERY, _MOST, _MOST_FOREIGN = 1 / 8, 0.5, 1.0

#: Of the stall timeout, between two looks at one of many workers: what is seen has to be new when that is over.
_LONGEST = 1 / 4

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


def _nothing() -> None:
    """One that was left where it is makes progress again: that is all. The others are gone."""


@dataclass(frozen=True, slots=True)
class HangReporter:
    """``progress(seen_at, words)``: when (s, monotonic) it was last seen to make progress, and in words how long it has
    made none. ``hung`` is called again and again as long as it is; ``seconds`` are those of the first time, the reason
    is the latest. ``going``: it has made progress after it had been said to be hung."""

    progress: Callable[[float | None, str], None]
    hung: Callable[[Hang], None]
    going: Callable[[], None] = _nothing


async def watch(
    watched: Watched, detector: HangDetector, report: HangReporter, clock: Callable[[], float],
    crowd: Callable[[], float] = lambda: 1.0,
) -> None:
    """Until cancelled. ``clock``: s, monotonic; ``crowd``: as in `ProbePlan`."""
    watch = _Watch(watched, detector, report)
    try:
        while True:
            usual = min(_MOST if detector.rules.ours else _MOST_FOREIGN, detector.rules.stall * _EVERY)
            interval = min(usual * crowd(), detector.rules.stall * _LONGEST)
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


#: Seconds between two looks whether a worker that starts is ready.
_STARTING_S = 0.1


class ProgressFinding:
    """Of one incarnation: when it was last seen to make progress (s, monotonic) and, in words, for how long it has made
    none."""

    def __init__(self, detector: HangDetector | None = None) -> None:
        self.seen_at: float | None = None
        self.without_progress = ""
        self._detector = detector

    @property
    def reading(self) -> Reading | None:
        """What its engine last said of itself."""
        return self._detector.reading if self._detector is not None else None

    def progress(self, seen_at: float | None, without_progress: str) -> None:
        self.seen_at, self.without_progress = seen_at, without_progress


class Workers(Protocol):
    """`cluster.fleet.fleet.Fleet`."""

    def hung(self, instance: Instance, why: str) -> bool: ...
    def group_of(self, name: str) -> WorkerGroup: ...


class HangMonitors:
    """``settings()``: those that hold now; ``work(name)``: what balancers and agents know of a worker's work; ``post``
    puts an event into the inbox; ``now``: s, monotonic."""

    def __init__(
        self, limit: EjectionLimit, workers: Workers, recovery: RecoveryTimes, settings: Callable[[], Settings],
        work: Callable[[str], Work], post: Callable[[Callable[[], None]], None], now: Callable[[], float],
    ) -> None:
        self._limit, self._workers, self._recovery, self._settings = limit, workers, recovery, settings
        self._work, self._post, self._now = work, post, now
        self._watched = 0
        self._findings: dict[str, ProgressFinding] = {}
        self._detectors: WeakSet[HangDetector] = WeakSet()

    def finding(self, name: str) -> ProgressFinding:
        return self._findings.get(name) or ProgressFinding()

    def retime(self, settings: Settings) -> None:
        """Everybody is judged by the settings that hold now."""
        for detector in self._detectors:
            detector.rules = replace(
                detector.rules, stall=settings.stall_timeout, canary=settings.canary_interval
            )

    async def watch(self, instance: Instance, target: Target) -> None:
        """From its start, or its adoption, until cancelled. The model of its group is asked for tokens."""
        self._findings.pop(instance.id, None)
        started = instance.state is WorkerState.STARTING
        while instance.state is WorkerState.STARTING:
            await asyncio.sleep(_STARTING_S)
        name, detector = self._workers.group_of(instance.id).model, self._detector(instance.models, ours=True)
        if started:
            detector.seen_at = self._now()  # it has just answered
        finding = self._findings[instance.id] = ProgressFinding(detector)
        watched = Watched(target, lambda: name, lambda: self._work(instance.id))
        hung = partial(self._instance_hangs, instance, instance.incarnation)
        await self._attend(watched, detector, HangReporter(finding.progress, hung))

    async def attend(self, backend: ExternalBackend, target: Target) -> None:
        """As `watch`, of a server that is not ours."""
        self._findings.pop(backend.id, None)  # another server's, before
        while backend.state is WorkerState.STARTING:
            await asyncio.sleep(_STARTING_S)
        detector = self._detector(backend.spec.models, ours=False)
        finding = self._findings[backend.id] = ProgressFinding(detector)
        watched = Watched(target, lambda: _base(backend), lambda: self._work(backend.id))
        hung, going = partial(self._external_hangs, backend), lambda: self._post(backend.going)
        await self._attend(watched, detector, HangReporter(finding.progress, hung, going))

    async def _attend(self, watched: Watched, detector: HangDetector, report: HangReporter) -> None:
        self._watched += 1
        try:
            await watch(watched, detector, report, self._now, lambda: stretch(self._watched))
        finally:
            self._watched -= 1

    def _detector(self, models: tuple[dict[str, Any], ...], ours: bool) -> HangDetector:
        settings = self._settings()
        context = next((card.get("max_model_len") for card in models if card.get("max_model_len")), None)
        detector = HangDetector(Rules(settings.stall_timeout, settings.canary_interval, context, ours), self._now())
        self._detectors.add(detector)
        return detector

    # findings

    def _instance_hangs(self, instance: Instance, incarnation: int, hang: Hang) -> None:
        def event() -> None:
            if instance.incarnation != incarnation or instance.hung is not None:
                return
            if self._limit.admits(instance, hang.reason) and self._workers.hung(instance, hang.reason):
                self.count(instance, hang)

        self._post(event)

    def _external_hangs(self, backend: ExternalBackend, hang: Hang) -> None:
        def event() -> None:
            if backend.state is WorkerState.READY and self._limit.admits(backend, hang.reason):
                self.count(backend, hang)
                backend.hung(hang.reason)

        self._post(event)

    def count(self, member: Instance | ExternalBackend, hang: Hang) -> None:
        member.hangs += 1
        self._recovery.detected(hang.cause, hang.seconds)
        self._recovery.lost(member.id, hang.cause, self._now())


def _base(backend: ExternalBackend) -> str | None:
    return next((card["id"] for card in backend.spec.models if not card.get("parent")), None)
