"""Whether something moves fast enough that is looked at now and then. Pure."""

from __future__ import annotations


class Pace:
    """Of bytes, of which there have been ``count`` at ``now`` (s). Too slow is what does not move for ``still``
    seconds, or moves by less than ``rate`` bytes a second over as long."""

    __slots__ = ("_beginning", "_count", "_moved", "_rate", "_seen", "_still")

    def __init__(self, still: float, rate: float, now: float, count: int) -> None:
        self._still, self._rate = still, rate
        self.begin(now, count)

    def begin(self, now: float, count: int) -> None:
        """Anew: until now it was held up by somebody else."""
        self._beginning = self._moved = now
        self._count = self._seen = count

    def is_slow(self, now: float, count: int) -> bool:
        """To be asked more often than every ``still`` seconds."""
        if count != self._seen:
            self._seen, self._moved = count, now
        if now - self._moved >= self._still:
            return True
        passed = now - self._beginning
        if passed < self._still:
            return False
        slow = count - self._count < self._rate * passed
        self._beginning, self._count = now, count
        return slow
