"""Peak EWMA of a latency: rises at once, falls slowly. Pure.

The rule is Finagle's and tower's (``tower::load::PeakEwma``): a measurement above the average replaces it, one below
moves it by ``1 - exp(-elapsed / decay)``. One slow answer is believed at once, and forgotten as time passes.
"""

from __future__ import annotations

import math


class PeakEwma:
    """``value`` is seconds, None before the first measurement. ``decay`` (s) is the time constant of forgetting."""

    __slots__ = ("_at", "decay", "value")

    def __init__(self, decay: float = 10.0) -> None:
        self.decay = decay
        self.value: float | None = None
        self._at = 0.0

    def observe(self, latency: float, now: float) -> None:
        """``latency`` (s) was measured at ``now`` (s, monotonic)."""
        if self.value is None or latency >= self.value:
            self.value = latency
        else:
            keep = math.exp(-max(0.0, now - self._at) / self.decay)
            self.value = self.value * keep + latency * (1.0 - keep)
        self._at = now
