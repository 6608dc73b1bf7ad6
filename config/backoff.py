"""How long to wait before the next attempt. Pure."""

from __future__ import annotations


def doubled(first: float, most: float, times: int) -> float:
    """Seconds: ``first``, doubled ``times`` times, at most ``most``."""
    return min(most, first * 2.0 ** min(times, 64))
