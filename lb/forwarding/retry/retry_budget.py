"""How often requests may be made again: a budget over all of them. Pure."""

from __future__ import annotations

#: Of the requests of the last `_WINDOW` seconds this share may be under way a second time, and at least `_LEAST`: as
#: Finagle's and Envoy's budgets, so that a cluster in trouble is not given the same work several times over.
_SHARE, _LEAST, _WINDOW = 0.2, 10, 10.0


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
