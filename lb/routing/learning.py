"""What a worker's times depend on, learnt from what is seen of it. Pure."""

from __future__ import annotations

#: What of the past counts when something new is seen: the weight of the last five hundred or so.
_KEPT = 0.998

#: A step of `Median`.
_UP = 1.03

#: Of what `RankTax` has seen: the latest few thousand; units in which its sums are of like size; the prior; and what is
#: taken for a pace at most, as one that stood still for other reasons says nothing of ranks.
_KEPT_LONG, _RANK_SCALE, _BATCH_SCALE, _TAX, _MOST_PACE = 0.9997, 32.0, 16.0, 0.005, 3.0

#: Twice the time at rank 50: more has not been measured by anybody.
_MOST_TAX = 0.02

#: The prior counts as much as so many observations.
_PRIOR = 5.0


class Slope:
    """``y = a + b x`` by least squares with exponential forgetting. ``b`` begins at ``prior``, is never less than 0,
    and counts as seen for ``x`` of ``scale``: values far below tell little of it."""

    __slots__ = ("_n", "_prior", "_scale", "_x", "_xx", "_xy", "_y", "value")

    def __init__(self, prior: float, scale: float) -> None:
        self.value = prior
        self._prior, self._scale = prior, _PRIOR * scale * scale
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def observe(self, x: float, y: float) -> None:
        self._n = n = self._n * _KEPT + 1.0
        self._x = sx = self._x * _KEPT + x
        self._y = sy = self._y * _KEPT + y
        self._xx = xx = self._xx * _KEPT + x * x
        self._xy = xy = self._xy * _KEPT + x * y
        spread, joint = xx - sx * sx / n, xy - sx * sy / n
        self.value = max(0.0, (joint + self._prior * self._scale) / (max(0.0, spread) + self._scale))

    @property
    def intercept(self) -> float:
        """What ``y`` is at 0; 0 before anything was seen."""
        return max(0.0, (self._y - self.value * self._x) / self._n) if self._n else 0.0


class Mean:
    """An average that forgets; begins at ``prior``."""

    __slots__ = ("_share", "value")

    def __init__(self, prior: float, share: float = 0.02) -> None:
        self.value, self._share = prior, share

    def observe(self, value: float) -> None:
        self.value += self._share * (value - self.value)


class Median:
    """Goes up a little by each value above it and down by each below; begins at ``prior``, and is never 0. A mean would
    follow the few that waited for something else too."""

    __slots__ = ("_least", "value")

    def __init__(self, prior: float, least: float = 0.001) -> None:
        self.value, self._least = prior, least

    def observe(self, value: float) -> None:
        self.value = self.value * _UP if value > self.value else max(self._least, self.value / _UP)


class Rates:
    """Of one worker. Times are s. The priors are those of an 8B model on an H100 (`worker/sim/engine/costs.py`); a few
    dozen requests replace them.

    ``prefill``: a token of a prompt. ``decode``: from the first token of an answer to its last. ``load``: an adapter
    that is in host memory comes into a slot; ``fetch``: one that is not."""

    __slots__ = ("decode", "fetch", "load", "prefill")

    def __init__(self) -> None:
        self.prefill = Slope(40e-6, 1000.0)
        self.decode = Mean(3.0)
        self.load, self.fetch = Median(0.03), Median(0.3)


class RankTax:
    """By what share of it a step takes longer for each rank of the largest adapter in the batch: ``pace = a + b rank +
    c batch`` by least squares with forgetting, where a pace is s a token over the mean of all. Learnt over all workers,
    as one that has always the same ranks cannot tell; with the batch beside it, as a balance that is good gives
    small ranks large batches. ``crowd``: by what share it takes longer for each further one in the batch."""

    __slots__ = ("_mean", "_sums", "crowd", "value")

    def __init__(self) -> None:
        self.value, self.crowd = _TAX, 0.0
        self._mean = Mean(0.0)
        self._sums = [0.0] * 9

    def observe(self, rank: int, batch: int, seconds: float) -> None:
        """So many ``seconds`` a token, in a ``batch`` with that largest ``rank``."""
        mean = self._mean
        if not mean.value:
            mean.value = seconds
        mean.observe(seconds)
        if not mean.value:
            return
        u, v, y = rank / _RANK_SCALE, batch / _BATCH_SCALE, min(_MOST_PACE, seconds / mean.value)
        seen = (1.0, u, v, y, u * u, u * v, v * v, u * y, v * y)
        self._sums = sums = [kept * _KEPT_LONG + new for kept, new in zip(self._sums, seen, strict=True)]
        n, su, sv, sy, suu, suv, svv, suy, svy = sums
        uu, uv, vv = suu - su * su / n + _PRIOR, suv - su * sv / n, svv - sv * sv / n + 1.0
        uy, vy = suy - su * sy / n + _PRIOR * _TAX * _RANK_SCALE, svy - sv * sy / n
        spread = uu * vv - uv * uv
        self.value = min(_MOST_TAX, max(0.0, (uy * vv - vy * uv) / spread / _RANK_SCALE))
        self.crowd = max(0.0, (vy * uu - uy * uv) / spread / _BATCH_SCALE)
