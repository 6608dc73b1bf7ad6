"""Peak EWMA of a latency: rises at once, falls slowly. Pure.

The rule is Finagle's and tower's (``tower::load::PeakEwma``): a measurement above the average replaces it, one below
moves it by ``1 - exp(-elapsed / decay)``. One slow answer is believed at once, and forgotten as time passes.

Who is avoided is not measured, and time alone would have it avoided for ever, or for long: so it is also forgotten a
little by each request that goes elsewhere (decision 23).
"""

from __future__ import annotations

import math

#: So many requests may go elsewhere before an estimate is taken for old: being slower than others is no reason alone.
PATIENCE = 10
#: What is left of it by each further one. One that is N times too high is tried again after some
#: PATIENCE + FORGETTING x ln(N) requests: about 22 where N is 10.
FORGETTING = 5.0
_KEPT = math.exp(-1.0 / FORGETTING)


class PeakEwma:
    """``value``: seconds, as measured; ``estimate``: what to reckon with, which is less where it has not been asked for
    a while. Both are None before the first measurement. ``decay`` (s) is the time constant of forgetting."""

    __slots__ = ("_at", "_passed", "decay", "estimate", "value")

    def __init__(self, decay: float = 10.0) -> None:
        self.decay = decay
        self.value: float | None = None
        self.estimate: float | None = None
        self._at = 0.0
        self._passed = 0

    def observe(self, latency: float, now: float) -> None:
        """``latency`` (s) was measured at ``now`` (s, monotonic)."""
        before = self.estimate
        if before is None or latency >= before:
            self.value = latency
        else:
            keep = math.exp(-max(0.0, now - self._at) / self.decay)
            self.value = before * keep + latency * (1.0 - keep)
        self.estimate = self.value
        self._at, self._passed = now, 0

    def passed_over(self, requests: int) -> None:
        """So many ``requests`` that it could have had went elsewhere; no answer of it is awaited that would tell."""
        self._passed += requests
        if self._passed > PATIENCE and self.estimate is not None:
            self.estimate *= _KEPT**requests
