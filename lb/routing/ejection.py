"""Passive ejection: what the balancer itself sees of a backend, between two words of the supervisor. Pure.

Failures to connect and silence count, and what a worker says of its own engine: one that answers, whatever else it
answers, is there, and a client that goes away says nothing about it.
"""

from __future__ import annotations

from config.backoff import doubled

#: Seconds out of rotation after the first failure, and at most; it doubles in between.
FIRST, MOST = 0.5, 8.0

#: Seconds for which a worker that said that its engine is dead gets nothing. Much longer than its process, or the
#: supervisor's word, should take; a server that is not ours may have been started anew behind the same address by then.
DYING = 30.0


class Ejection:
    """Out of rotation for a while after each failure to connect, longer each time, until a success; and, once it said
    that it is dying, until the supervisor says otherwise. ``until``: s, monotonic."""

    __slots__ = ("_dies_until", "_in_row", "slow", "until")

    def __init__(self) -> None:
        self._in_row = 0
        self.until = self._dies_until = 0.0
        #: Whether it is out for slowness.
        self.slow = False

    def failed(self, now: float, slow: bool = False) -> bool:
        """Returns whether this changed anything: several requests may fail on the same dead worker at once.
        ``slow``: it took too long, which may be the machine's fault; `lb.routing.pool.Pool.may_eject_slow` says whether
        there is room for that."""
        if self.active(now):
            return False
        self.slow = slow
        self.until = now + doubled(FIRST, MOST, self._in_row)
        self._in_row += 1
        return True

    def dies(self, now: float) -> bool:
        """Its engine is dead. Returns whether that is news."""
        news = not self.dying(now)
        self.slow = False
        self.until = self._dies_until = now + DYING
        return news

    def dying(self, now: float) -> bool:
        """Whether it has said so, and nothing else is known since."""
        return now < self._dies_until

    def succeeded(self) -> None:
        """A request did: what an API server still has of an engine that is dead proves nothing."""
        self._in_row, self.until = 0, self._dies_until

    def recovered(self) -> None:
        """By the supervisor's word."""
        self._in_row, self.until, self._dies_until = 0, 0.0, 0.0

    def active(self, now: float) -> bool:
        return now < self.until
