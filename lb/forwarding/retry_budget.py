"""How often a request may be made again: a budget over all, and what a request has done to workers. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

#: Of the requests of the last `_WINDOW` seconds this share may be under way a second time, and at least `_LEAST`: as
#: Finagle's and Envoy's budgets, so that a cluster in trouble is not given the same work several times over.
_SHARE, _LEAST, _WINDOW = 0.2, 10, 10.0

#: Deaths of workers after which a request is not given to another one.
MOST_DEATHS = 2


class RetryBudget:
    """Times are seconds on one monotonic clock."""

    __slots__ = ("_before", "_now", "_turn", "under_way")

    def __init__(self) -> None:
        self._before = self._now = 0
        self._turn = 0.0
        self.under_way = 0

    def request(self, now: float) -> None:
        """One has come."""
        if now >= self._turn:
            self._before = self._now if now < self._turn + _WINDOW else 0
            self._now, self._turn = 0, now + _WINDOW
        self._now += 1

    def recent(self, now: float) -> float:
        """Requests of the last `_WINDOW` seconds, about: those of the window before count by what is left of it."""
        if now >= self._turn + _WINDOW:
            return 0.0
        if now >= self._turn:
            return self._now * (self._turn + _WINDOW - now) / _WINDOW
        return self._now + self._before * (self._turn - now) / _WINDOW

    def take(self, now: float) -> bool:
        """Whether one more may be made again now; `give_back` when it has its answer, or none."""
        if not self.has_room(now):
            return False
        self.under_way += 1
        return True

    def give_back(self) -> None:
        self.under_way -= 1

    def has_room(self, now: float) -> bool:
        """Whether `take` would be granted."""
        return self.under_way < max(_LEAST, _SHARE * self.recent(now))


class Place(Protocol):
    """A worker. ``suspects``: requests there which may have killed another one, and have not got anything yet."""

    suspects: int


class Record:
    """The incarnations of workers (id, incarnation) on which one request failed in such a way that it may have been
    what killed them: it had not got a token there, or nothing else was running there."""

    __slots__ = ("_place", "_suspected")

    def __init__(self) -> None:
        self._suspected: list[tuple[str, int]] = []
        self._place: Place | None = None

    def failed(self, worker: tuple[str, int], *, made_nothing: bool, alone: bool) -> None:
        if (made_nothing or alone) and worker not in self._suspected:
            self._suspected.append(worker)

    def enter(self, place: Place) -> None:
        """It is given to another worker: until `leave`, no other suspect should be."""
        self.leave()
        if self._suspected:
            self._place = place
            place.suspects += 1

    def leave(self) -> None:
        """It got something there, or is not there any more. May be called again."""
        if self._place is not None:
            self._place.suspects -= 1
            self._place = None

    def __len__(self) -> int:
        return len(self._suspected)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self._suspected)
