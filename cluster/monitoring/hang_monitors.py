"""Every worker and server is watched for hangs, and what follows is brought into the supervisor's inbox.

What is seen of their progress (`ProgressFinding`) belongs to these monitors: nothing is decided by it but here, and
status shows it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol
from weakref import WeakSet

from cluster.fleet.instance import Instance
from cluster.fleet.states import WorkerState
from cluster.monitoring.ejection_limit import EjectionLimit
from cluster.monitoring.external import ExternalBackend
from cluster.monitoring.hang_detector import Hang, HangDetector, Rules, Work
from cluster.monitoring.hang_watch import Watched, watch
from cluster.monitoring.recovery_times import RecoveryTimes
from config.settings import Settings
from worker.probe import Target
from worker.progress import Reading

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


class HangMonitors:
    """``settings()``: those that hold now; ``work(name)``: what balancers and agents know of a worker's work; ``post``
    puts an event into the inbox; ``now``: s, monotonic."""

    def __init__(
        self, limit: EjectionLimit, workers: Workers, recovery: RecoveryTimes, settings: Callable[[], Settings],
        work: Callable[[str], Work], post: Callable[[Callable[[], None]], None], now: Callable[[], float],
    ) -> None:
        self._limit, self._workers, self._recovery, self._settings = limit, workers, recovery, settings
        self._work, self._post, self._now = work, post, now
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

    async def watch(self, instance: Instance, target: Target, model: Callable[[], str]) -> None:
        """From its start, or its adoption, until cancelled. ``model()`` is asked for tokens."""
        self._findings.pop(instance.id, None)
        started = instance.state is WorkerState.STARTING
        while instance.state is WorkerState.STARTING:
            await asyncio.sleep(_STARTING_S)
        name, detector = model(), self._detector(instance.models, ours=True)
        if started:
            detector.seen_at = self._now()  # it has just answered
        finding = self._findings[instance.id] = ProgressFinding(detector)
        watched = Watched(target, lambda: name, lambda: self._work(instance.id))
        await watch(watched, detector, _OfInstance(self, finding, instance), self._now)

    async def attend(self, backend: ExternalBackend, target: Target) -> None:
        """As `watch`, of a server that is not ours."""
        while backend.state is WorkerState.STARTING:
            await asyncio.sleep(_STARTING_S)
        detector = self._detector(backend.spec.models, ours=False)
        finding = self._findings[backend.id] = ProgressFinding(detector)
        watched = Watched(target, lambda: _base(backend), lambda: self._work(backend.id))
        await watch(watched, detector, _OfExternal(self, finding, backend), self._now)

    def _detector(self, models: tuple[dict[str, Any], ...], ours: bool) -> HangDetector:
        settings = self._settings()
        context = next((card.get("max_model_len") for card in models if card.get("max_model_len")), None)
        detector = HangDetector(Rules(settings.stall_timeout, settings.canary_interval, context, ours), self._now())
        self._detectors.add(detector)
        return detector

    # findings

    def instance_hangs(self, instance: Instance, incarnation: int, hang: Hang) -> None:
        def event() -> None:
            if instance.incarnation != incarnation or instance.hung is not None:
                return
            if self._limit.admits(instance, hang.reason) and self._workers.hung(instance, hang.reason):
                self.count(instance, hang)

        self._post(event)

    def external_hangs(self, backend: ExternalBackend, hang: Hang) -> None:
        def event() -> None:
            if backend.state is WorkerState.READY and self._limit.admits(backend, hang.reason):
                self.count(backend, hang)
                backend.hung(hang.reason)

        self._post(event)

    def external_moves(self, backend: ExternalBackend) -> None:
        self._post(backend.going)

    def count(self, member: Instance | ExternalBackend, hang: Hang) -> None:
        member.hangs += 1
        self._recovery.detected(hang.cause, hang.seconds)
        self._recovery.lost(member.id, hang.cause, self._now())


def _base(backend: ExternalBackend) -> str | None:
    return next((card["id"] for card in backend.spec.models if not card.get("parent")), None)


class _OfInstance:
    """The reporter of one incarnation."""

    def __init__(self, monitors: HangMonitors, finding: ProgressFinding, instance: Instance) -> None:
        self._monitors, self._instance, self._incarnation = monitors, instance, instance.incarnation
        self.progress = finding.progress

    def hung(self, hang: Hang) -> None:
        self._monitors.instance_hangs(self._instance, self._incarnation, hang)

    def going(self) -> None:
        """One that was left where it is; the others are gone."""


class _OfExternal:
    def __init__(self, monitors: HangMonitors, finding: ProgressFinding, backend: ExternalBackend) -> None:
        self._monitors, self._backend = monitors, backend
        self.progress = finding.progress

    def hung(self, hang: Hang) -> None:
        self._monitors.external_hangs(self._backend, hang)

    def going(self) -> None:
        self._monitors.external_moves(self._backend)
