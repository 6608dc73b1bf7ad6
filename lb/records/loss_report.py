"""What became of the requests that were on a worker when it was lost, for the supervisor's sentence about it. Pure.

A request may notice the end before the balancer is told of it, as its connection breaks: what becomes of it in the
moments before counts as well.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

#: Seconds that a report waits for requests that have not got anywhere yet.
PATIENCE = 0.7

#: Seconds before a loss in which a request's end is put down to it.
_EARLY = 2.0

_Key = tuple[str, int]


#: Incarnations of which early ends are remembered.
_MOST_EARLY = 256


@dataclass(slots=True)
class _Early:
    """Before the loss is known: attempts that broke, and what became of their requests."""

    at: float
    broken: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _LostWorker:
    requests: int
    deadline: float
    outcomes: Counter[str] = field(default_factory=Counter)


class LossReport:
    """Times are monotonic seconds. Each request that was on a lost incarnation is `moved`, `retried` or `failed`, once
    on each incarnation it was lost with."""

    def __init__(self) -> None:
        self._losses: dict[_Key, _LostWorker] = {}
        self._early: dict[_Key, _Early] = {}

    @property
    def pending(self) -> bool:
        """Whether there is something to report, now or soon."""
        return bool(self._losses)

    def lost(self, backend: str, incarnation: int, requests: int, now: float) -> None:
        """``requests`` are in flight on an incarnation that is lost. To be called before they are told so."""
        early = self._before(backend, incarnation, now)
        del self._early[backend, incarnation]
        requests += max(early.broken, early.outcomes.total())
        self._losses[backend, incarnation] = _LostWorker(requests, now + PATIENCE, early.outcomes)

    def broke(self, backend: str, incarnation: int, now: float) -> None:
        """An attempt on it failed; what becomes of the request comes later."""
        if (backend, incarnation) not in self._losses:  # else it was in flight when that became known
            self._before(backend, incarnation, now).broken += 1

    def moved(self, backend: str, incarnation: int, now: float) -> None:
        """A stream goes on elsewhere."""
        self._count(backend, incarnation, "moved", now)

    def retried(self, backend: str, incarnation: int, now: float) -> None:
        """A request is made anew elsewhere."""
        self._count(backend, incarnation, "retried", now)

    def failed(self, backend: str, incarnation: int, now: float) -> None:
        """A client got an error, or an answer cut short."""
        self._count(backend, incarnation, "failed", now)

    def _count(self, backend: str, incarnation: int, what: str, now: float) -> None:
        loss = self._losses.get((backend, incarnation))
        outcomes = loss.outcomes if loss is not None else self._before(backend, incarnation, now).outcomes
        outcomes[what] += 1

    def _before(self, backend: str, incarnation: int, now: float) -> _Early:
        key = (backend, incarnation)
        early = self._early.pop(key, None)
        if early is None or now - early.at > _EARLY:
            early = _Early(now)
        early.at = now
        self._early[key] = early  # the latest is the last
        while len(self._early) > _MOST_EARLY:
            del self._early[next(iter(self._early))]
        return early

    def due(self, now: float) -> list[dict[str, Any]]:
        """Messages for the supervisor (see `config.link`): of losses whose requests have all come to something, or have
        been waited for long enough. Each loss once."""
        messages = []
        for key, loss in list(self._losses.items()):
            if loss.outcomes.total() < loss.requests and now < loss.deadline:
                continue
            del self._losses[key]
            messages.append({
                "type": "outcome", "backend": key[0], "incarnation": key[1], "requests": loss.requests,
                "moved": loss.outcomes["moved"], "retried": loss.outcomes["retried"], "failed": loss.outcomes["failed"],
            })  # fmt: skip
        return messages
