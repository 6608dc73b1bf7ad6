"""The sentence about a worker's end, put together from what the supervisor knows and what the balancers report of the
requests that were on it. Pure.

The balancers learn of the end from the supervisor, so their word comes after it: the sentence waits for it, the restart
does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.events import Emit

#: Seconds that the sentence waits for the balancers.
PATIENCE = 1.0

#: Outcomes of workers that have not ended yet (they are being killed) are kept for so many.
_KEPT = 256


@dataclass(frozen=True, slots=True)
class WorkerExit:
    """``how``: with what process ended, in words; ``then``: what follows. ``data``: the same for programs."""

    instance: str
    incarnation: int
    how: str
    then: str
    data: Mapping[str, Any]


@dataclass(slots=True)
class Outcome:
    """What became of the requests on one incarnation, in all balancer processes that have ``reported``."""

    reported: int = 0
    requests: int = 0
    moved: int = 0
    retried: int = 0
    failed: int = 0

    def add(self, message: Mapping[str, Any]) -> None:
        self.reported += 1
        self.requests += message["requests"]
        self.moved += message["moved"]
        self.retried += message["retried"]
        self.failed += message["failed"]

    def to_json(self) -> dict[str, int]:
        return {
            "requests": self.requests, "moved": self.moved, "retried": self.retried, "failed": self.failed,
        }  # fmt: skip


def requests_in_words(outcome: Outcome) -> str:
    """``12 moved, 1 failed``, or nothing."""
    words = ("moved", "retried", "failed")
    return ", ".join(f"{getattr(outcome, word)} {word}" for word in words if getattr(outcome, word))


def sentence(loss: WorkerExit, outcome: Outcome | None) -> str:
    if outcome is None:
        return f"{loss.how}; {loss.then}"
    if not outcome.requests:
        return f"{loss.how} with no requests; {loss.then}"
    had = f"with {outcome.requests} request{'s' if outcome.requests > 1 else ''}"
    return "; ".join(filter(None, (f"{loss.how} {had}", requests_in_words(outcome), loss.then)))


@dataclass(slots=True)
class _Waiting:
    loss: WorkerExit
    deadline: float
    processes: int


@dataclass(slots=True)
class ExitReports:
    """Tells of each loss once, also where no balancer has said a word."""

    emit: Emit
    _waiting: dict[tuple[str, int], _Waiting] = field(default_factory=dict)
    _outcomes: dict[tuple[str, int], Outcome] = field(default_factory=dict)

    def lost(self, loss: WorkerExit, now: float, processes: int) -> None:
        """``processes``: so many balancers have something to say."""
        self._waiting[loss.instance, loss.incarnation] = _Waiting(loss, now + PATIENCE, processes)
        self.due(now)

    def outcome(self, message: Mapping[str, Any], now: float) -> None:
        """A balancer's ``outcome``, see `config.link`."""
        key = (message["backend"], message["incarnation"])
        self._outcomes.setdefault(key, Outcome()).add(message)
        while len(self._outcomes) > _KEPT:
            del self._outcomes[next(iter(self._outcomes))]
        self.due(now)

    def due(self, now: float, everything: bool = False) -> None:
        """Tells what need not wait any longer."""
        for key, waiting in list(self._waiting.items()):
            outcome = self._outcomes.get(key)
            whole = (outcome.reported if outcome else 0) >= waiting.processes
            if whole or everything or now >= waiting.deadline:
                del self._waiting[key]
                self._outcomes.pop(key, None)
                loss = waiting.loss
                data = {**loss.data, **(outcome.to_json() if outcome else {})}
                self.emit(loss.instance, sentence(loss, outcome), kind="worker.exited", data=data)
