"""What follows when a worker ends: its state, the times of its recovery, and the sentence about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from cluster.events import Emit
from cluster.fleet.exit_report import ExitReports, Outcome, requests_in_words
from cluster.fleet.fleet import Fleet
from cluster.fleet.instance import HeldAdapters, Instance
from cluster.fleet.states import WorkerState
from cluster.monitoring.recovery_times import RecoveryTimes
from cluster.supervisor.clock import Clocks
from worker.drivers.base import Handle

#: Lines of a worker's log kept with its end.
_LOG_LINES = 20


class Witnesses(Protocol):
    """`cluster.balancers.feed.Feed`."""

    @property
    def engaged(self) -> int:
        """So many of them have something to say."""


class WorkerExits:
    def __init__(
        self, fleet: Fleet, recovery: RecoveryTimes, emit: Emit, balancers: Witnesses, clock: Clocks
    ) -> None:
        self._fleet, self._recovery, self._emit, self._balancers, self._clock = fleet, recovery, emit, balancers, clock
        self._reports = ExitReports(emit)

    def exited(self, instance: Instance, handle: Handle, status: int | None, seen: float) -> None:
        """Its main process is gone, as was ``seen`` at that time (s, monotonic)."""
        failed, now = instance.failure is not None, self._clock.now()
        served = instance.state in (WorkerState.READY, WorkerState.UNHEALTHY) or failed
        instance.adapters = HeldAdapters()
        lines = handle.logs(_LOG_LINES)
        instance.swept = handle
        self._ended(instance, status, lines)
        if instance.state is not WorkerState.BACKOFF:
            self._recovery.forget(instance.id)  # it is not to come back
        elif served:
            if not failed:
                self._recovery.detected("exit", now - seen)
            self._recovery.lost(instance.id, "killed" if failed else "exit", now)

    def not_started(self, instance: Instance, why: str) -> None:
        """There is no process at all."""
        instance.failure = why
        self._ended(instance, None, [])

    def _ended(self, instance: Instance, status: int | None, lines: list[str]) -> None:
        now = self._clock.now()
        if (ended := self._fleet.exited(instance, status, lines, now, self._clock.wall())) is not None:
            self._reports.lost(ended, now, self._balancers.engaged)

    def due(self, everything: bool) -> None:
        """Tells what need not wait any longer."""
        self._reports.due(self._clock.now(), everything)

    def outcome(self, message: Mapping[str, Any]) -> None:
        """A balancer says what became of the requests on a worker that it was told is lost."""
        instance = self._fleet.instances.get(message["backend"])
        asked_for = instance is None or (instance.state is WorkerState.STOPPING and instance.failure is None)
        if not asked_for:
            self._reports.outcome(message, self._clock.now())
            return
        outcome = Outcome()
        outcome.add(message)
        if outcome.requests:
            many = "requests were" if outcome.requests > 1 else "request was"
            became = requests_in_words(outcome)
            words = "; ".join(filter(None, (f"ends while {outcome.requests} {many} on it", became)))
            data = {"incarnation": message["incarnation"], **outcome.to_json()}
            self._emit(message["backend"], words, kind="worker.moved", data=data)
