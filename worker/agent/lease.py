"""Who may say what an agent does, and for how long its workers live without a word. Pure: times are arguments."""

from __future__ import annotations


class Outranked(Exception):
    """A supervisor that began later has spoken to this agent."""


class NodeLease:
    """``seconds`` from ``now`` (s, monotonic), until somebody renews it."""

    def __init__(self, seconds: float, now: float) -> None:
        self._since, self._until = now, now + seconds
        self._rank = 0

    def check(self, rank: int) -> None:
        """Raises Outranked for anybody but the one that began last."""
        if rank < self._rank:
            raise Outranked("a supervisor that began later has taken over")
        self._rank = rank

    def renew(self, rank: int, seconds: float, now: float) -> None:
        """Raises as `check`."""
        self.check(rank)
        self._since, self._until = now, now + seconds

    def age(self, now: float) -> tuple[float, float]:
        """Seconds since it was renewed, and until it is over."""
        return now - self._since, self._until - now

    def over(self, now: float) -> bool:
        return now >= self._until
