"""How long it took to notice that a worker is lost, and until it served again. Pure.

To detect: from the last sign of life (the last probe that went well, the last token) to the moment at which it is
taken out; of a process that ended, from the kernel's word to the supervisor's acting on it. To restore: from that
moment until the worker is ready again.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

#: Seconds.
BOUNDS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class _Times:
    def __init__(self) -> None:
        self.buckets = [0] * (len(BOUNDS) + 1)
        self.sum = self.most = 0.0

    def add(self, seconds: float) -> None:
        self.buckets[bisect_left(BOUNDS, seconds)] += 1
        self.sum += seconds
        self.most = max(self.most, seconds)

    def to_json(self) -> dict[str, Any]:
        return {
            "count": sum(self.buckets), "sum": round(self.sum, 6), "max": round(self.most, 6),
            "buckets": list(self.buckets),
        }  # fmt: skip


class RecoveryTimes:
    """Causes are few words: ``exit``, ``unhealthy``, ``killed``, and of hangs ``still``, ``silent``, ``canary``. Times
    are monotonic seconds."""

    def __init__(self) -> None:
        self._detect: dict[str, _Times] = {}
        self._restore: dict[str, _Times] = {}
        self._lost: dict[str, tuple[str, float]] = {}

    def detected(self, cause: str, seconds: float) -> None:
        """A loss was noticed ``seconds`` after the last sign of life."""
        self._detect.setdefault(cause, _Times()).add(max(0.0, seconds))

    def lost(self, instance: str, cause: str, now: float) -> None:
        """It serves no more; of several causes in a row the first counts."""
        self._lost.setdefault(instance, (cause, now))

    def ready(self, instance: str, now: float) -> float | None:
        """It serves again: after so many seconds, None if it was not lost."""
        cause, since = self._lost.pop(instance, ("", 0.0))
        if not cause:
            return None
        self._restore.setdefault(cause, _Times()).add(now - since)
        return now - since

    def forget(self, instance: str) -> None:
        """It is not to serve again, or its end is wanted now."""
        self._lost.pop(instance, None)

    def to_json(self) -> dict[str, Any]:
        return {
            "bounds": list(BOUNDS),
            "detect": {cause: times.to_json() for cause, times in self._detect.items()},
            "restore": {cause: times.to_json() for cause, times in self._restore.items()},
        }
