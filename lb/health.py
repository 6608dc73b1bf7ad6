"""Passive ejection: what the balancer itself sees of a backend, between two words of the supervisor. Pure.

Only failures to connect count: a worker that answers, whatever it answers, is there, and a client that goes away
says nothing about it.
"""

from __future__ import annotations

#: Seconds out of rotation after the first failure, and at most; it doubles in between.
FIRST, MOST = 0.5, 8.0


class Ejection:
    """Out of rotation for a while after each failure to connect, longer each time, until a success."""

    __slots__ = ("_in_row", "slow", "until")

    def __init__(self) -> None:
        self._in_row = 0
        self.until = 0.0
        #: Whether it is out for slowness.
        self.slow = False

    def failed(self, now: float, slow: bool = False) -> bool:
        """Returns whether this changed anything: several requests may fail on the same dead worker at once.
        ``slow``: it took too long, which may be the machine's fault; `lb.pool.Pool.may_eject_slow` says whether there
        is room for that."""
        if self.active(now):
            return False
        self.slow = slow
        self.until = now + min(MOST, FIRST * 2.0 ** min(self._in_row, 16))
        self._in_row += 1
        return True

    def succeeded(self) -> None:
        self._in_row, self.until = 0, 0.0

    def active(self, now: float) -> bool:
        return now < self.until
