"""Figures of many values. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean

#: What a summary tells, in the order it is shown.
FIGURES = ("mean", "median", "p95", "p99", "min", "max")


def percentile(ascending: Sequence[float], percent: float) -> float:
    """The value below which ``percent`` of 100 lie; between two of them, on the line that joins them (numpy's default,
    and so what `vllm bench serve` reports). ``ascending`` is sorted and not empty."""
    place = (len(ascending) - 1) * percent / 100
    low, high = math.floor(place), math.ceil(place)
    return ascending[low] + (ascending[high] - ascending[low]) * (place - low)


def summary(values: Iterable[float]) -> dict[str, float] | None:
    """`FIGURES` and ``count``; None of no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    return {
        "mean": fmean(ordered), "median": percentile(ordered, 50), "p95": percentile(ordered, 95),
        "p99": percentile(ordered, 99), "min": ordered[0], "max": ordered[-1], "count": len(ordered),
    }  # fmt: skip
