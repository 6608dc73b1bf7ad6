"""How sure a score is, and whether one model's differs from another's. Pure.

Intervals are percentile bootstraps (Efron & Tibshirani, "An Introduction to the Bootstrap", 13.3), of 95 %, with a
seed: the same scores give the same interval. Two models are compared row by row (Koehn, "Statistical Significance Tests
for Machine Translation Evaluation", EMNLP 2004), which tells apart what two intervals that overlap do not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from statistics import fmean

from cluster.tools.bench.stats import percentile

#: Samples of a bootstrap, and values drawn for all of them: some seconds at most.
_SAMPLES, _LEAST_SAMPLES, _DRAWN = 1000, 100, 4_000_000

#: Scores that differ by no more are the same: the last digits are the rounding of the library's.
_SAME = 1e-9


_LEAST_ROWS = 20

#: Of the normal distribution, for 95 %.
_Z = 1.959963984540054


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Paired:
    """Of a model beside the first: ``difference`` of the means over the ``rows`` that both have, and in how many it was
    better, the same or worse. ``p``: of the sign test, two-sided: how likely chance splits as unevenly, or more."""

    rows: int
    difference: float
    interval: Interval
    better: int
    same: int
    worse: int
    p: float

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where the interval says so; empty where there is no telling, as with few rows: their
        bootstrap is too narrow."""
        if self.rows < _LEAST_ROWS:
            return ""
        return "better" if self.interval.low > 0 else "worse" if self.interval.high < 0 else ""


def interval(values: Sequence[float], seed: int) -> Interval:
    """Of the mean of ``values``, which are not empty. Of shares, where all values are 0 or 1, Wilson's score interval:
    a bootstrap of nothing but zeros knows nothing but zero."""
    if all(value in (0.0, 1.0) for value in values):
        return _wilson(sum(values), len(values))
    return _bootstrap(values, seed)


def _bootstrap(values: Sequence[float], seed: int) -> Interval:
    if min(values) == max(values):
        return Interval(values[0], values[0])
    count, random = len(values), Random(seed)
    samples = max(_LEAST_SAMPLES, min(_SAMPLES, _DRAWN // count))
    means = sorted(fmean(random.choices(values, k=count)) for _ in range(samples))
    return Interval(percentile(means, 2.5), percentile(means, 97.5))


def _wilson(hits: float, count: int) -> Interval:
    """Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22 (1927)."""
    share, square = hits / count, _Z * _Z
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = _Z / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def paired(first: Sequence[float | None], second: Sequence[float | None], seed: int) -> Paired | None:
    """Scores of the same rows, None for one without; None where no row has both."""
    differences = [b - a for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if not differences:
        return None
    better, worse = sum(d > _SAME for d in differences), sum(d < -_SAME for d in differences)
    return Paired(
        len(differences), fmean(differences), _bootstrap(differences, seed), better,
        len(differences) - better - worse, worse, sign_test(better, worse),
    )  # fmt: skip


def sign_test(better: int, worse: int) -> float:
    """The two-sided p of a fair coin that falls so or more unevenly."""
    count, most = better + worse, max(better, worse)
    if count == 0:
        return 1.0
    logs = [_log_choose(count, k) - count * math.log(2) for k in range(most, count + 1)]
    return min(1.0, 2 * math.fsum(map(math.exp, logs)))


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
