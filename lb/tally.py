"""Counters and histograms that cost a few tenths of a microsecond to write; they become series when somebody asks.

``prometheus_client`` takes a lock and looks its child up by labels on every step, about 1.5 µs each; a request makes
ten of them, and each chunk of a stream one more. Here the writer is one thread and keeps its cell.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

#: Upper ends (s) of buckets that a quantile can be read from within a fifth of its value, from 1 ms to 10 min.
FINE = tuple(round(0.001 * 1.2**n, 6) for n in range(74))


def _as_label(bound: float) -> str:
    """A bucket's ``le``, as Go and Prometheus write it."""
    return str(floatToGoString(bound))  # type: ignore[no-untyped-call]


class Count:
    """One value of a `Counts` or a `Levels`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Spread:
    """One histogram of a `Spreads`: how many values fell into each bucket, and their sum. What it observes ``fine``
    does too."""

    __slots__ = ("_bounds", "buckets", "fine", "sum")

    def __init__(self, bounds: Sequence[float], fine: Spread | None = None) -> None:
        self._bounds, self.fine = bounds, fine
        self.buckets = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.buckets[bisect_left(self._bounds, value)] += 1
        self.sum += value
        if self.fine is not None:
            self.fine.observe(value)

    @property
    def count(self) -> int:
        return sum(self.buckets)


class Counts(Collector):
    """A counter by labels."""

    _family: type[CounterMetricFamily] | type[GaugeMetricFamily] = CounterMetricFamily

    def __init__(self, name: str, meaning: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._name, self._meaning, self._labels = name, meaning, tuple(labels)
        self._cells: dict[tuple[str, ...], Count] = {}
        registry.register(self)

    def at(self, *labels: str) -> Count:
        cell = self._cells.get(labels)
        if cell is None:
            cell = self._cells[labels] = Count()
        return cell

    def sum(self) -> float:
        """Of all labels."""
        return sum(cell.value for cell in self._cells.values())

    def collect(self) -> Iterable[Metric]:
        family = self._family(self._name, self._meaning, labels=self._labels)
        for labels, cell in list(self._cells.items()):
            family.add_metric(labels, cell.value)
        yield family

    def describe(self) -> Iterable[Metric]:
        return []


class Levels(Counts):
    """A gauge by labels."""

    _family = GaugeMetricFamily


class Spreads(Collector):
    """A histogram by labels; ``bounds`` are the buckets' upper ends, rising. ``fine`` observes all of them."""

    def __init__(
        self, name: str, meaning: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry,
        fine: Spread | None = None,
    ) -> None:
        self._name, self._meaning, self._labels, self._bounds = name, meaning, tuple(labels), tuple(bounds)
        self._fine = fine
        self._cells: dict[tuple[str, ...], Spread] = {}
        registry.register(self)

    def at(self, *labels: str) -> Spread:
        cell = self._cells.get(labels)
        if cell is None:
            cell = self._cells[labels] = Spread(self._bounds, self._fine)
        return cell

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._meaning, labels=self._labels)
        for labels, cell in list(self._cells.items()):
            so_far, buckets = 0, []
            for bound, count in zip((*self._bounds, float("inf")), list(cell.buckets), strict=True):
                so_far += count
                buckets.append((_as_label(bound), so_far))
            family.add_metric(labels, buckets, cell.sum)
        yield family

    def describe(self) -> Iterable[Metric]:
        return []
