"""Counters and histograms that cost a few tenths of a microsecond to write; they become series when somebody asks.

``prometheus_client`` takes a lock and looks its child up by labels on every step, about 1.5 µs each; a request makes
ten of them, and each chunk of a stream one more. Here the writer is one thread and keeps its cell.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from lb.telemetry.exposition import number

#: Cells that become text in one step.
_STEP = 20

_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})

#: Upper ends (s) of buckets that a quantile can be read from within a fifth of its value, from 1 ms to 10 min.
FINE = tuple(round(0.001 * 1.2**n, 6) for n in range(74))


class Families(CollectorRegistry):
    """A registry of families that write their own text: the same that ``prometheus_client`` makes of them, several
    times as fast."""

    def __init__(self) -> None:
        super().__init__(auto_describe=False)
        self._families: list[Collector] = []

    def register(self, collector: Collector) -> None:
        super().register(collector)
        self._families.append(collector)

    def pieces(self) -> Iterator[str]:
        """The exposition, each piece made in well under a millisecond; a family's begins with its HELP and TYPE."""
        for family in self._families:
            if isinstance(family, _Written):
                yield from family.text()
            else:
                yield generate_latest(family).decode()


@runtime_checkable
class _Written(Protocol):
    def text(self) -> Iterator[str]: ...


def _head(name: str, meaning: str, kind: str) -> str:
    meaning = meaning.replace("\\", r"\\").replace("\n", r"\n")
    return f"# HELP {name} {meaning}\n# TYPE {name} {kind}\n"


def _labelled(names: Sequence[str], values: Sequence[str]) -> str:
    """``{a="1",b="2"}``, by name; nothing for no labels."""
    if not names:
        return ""
    pairs = sorted(zip(names, values, strict=True))
    return "{" + ",".join([f'{name}="{value.translate(_ESCAPES)}"' for name, value in pairs]) + "}"


class Counter:
    """One value of a `CounterFamily` or a `GaugeFamily`."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0


class Histogram:
    """One of a `HistogramFamily`: how many values fell into each bucket, and their sum. What it observes ``fine``
    does too.

    ``observe`` writes a value down, which is all that a request pays for; values are sorted into buckets when somebody
    reads them, or with `settle`, which has to be called now and then: they are kept until then."""

    __slots__ = ("_bounds", "_buckets", "_coarser", "_fine", "_new", "_sum", "observe", "observe_all")

    def __init__(self, bounds: Sequence[float], fine: Histogram | None = None) -> None:
        self._bounds, self._fine, self._coarser = bounds, fine, list[Histogram]()
        self._buckets, self._sum, self._new = [0] * (len(bounds) + 1), 0.0, list[float]()
        self.observe: Callable[[float], None] = self._new.append
        self.observe_all: Callable[[Iterable[float]], None] = self._new.extend
        if fine is not None:
            fine._coarser.append(self)

    def settle(self) -> None:
        for coarser in self._coarser:
            coarser.settle()
        if not self._new:
            return
        self._sum = sum(self._new, self._sum)
        values = sorted(self._new)
        self._new.clear()
        bounds, buckets, at = self._bounds, self._buckets, 0
        while at < len(values):  # what falls into one bucket is counted in one step
            bucket = bisect_left(bounds, values[at])
            end = bisect_right(values, bounds[bucket], at) if bucket < len(bounds) else len(values)
            buckets[bucket] += end - at
            at = end
        if self._fine is not None:
            self._fine.observe_all(values)

    @property
    def buckets(self) -> list[int]:
        self.settle()
        return self._buckets

    @property
    def sum(self) -> float:
        self.settle()
        return self._sum

    @property
    def count(self) -> int:
        return sum(self.buckets)


class CounterFamily(Collector):
    """A counter by labels. ``settle`` is called before it is read: what is not counted yet is then."""

    _family: type[CounterMetricFamily] | type[GaugeMetricFamily] = CounterMetricFamily

    def __init__(
        self, name: str, meaning: str, labels: Sequence[str], registry: CollectorRegistry,
        settle: Callable[[], None] = lambda: None,
    ) -> None:
        self._name, self._meaning, self._labels, self._settle = name, meaning, tuple(labels), settle
        self._cells: dict[tuple[str, ...], Counter] = {}
        self._written: dict[tuple[str, ...], str] = {}
        registry.register(self)

    def at(self, *labels: str) -> Counter:
        cell = self._cells.get(labels)
        if cell is None:
            cell = self._cells[labels] = Counter()
        return cell

    def add(self, *labels: object) -> None:
        """One more."""
        self.at(*map(str, labels)).value += 1

    def sum(self) -> float:
        """Of all labels."""
        self._settle()
        return sum(cell.value for cell in self._cells.values())

    def cells(self) -> list[tuple[tuple[str, ...], Counter]]:
        """All of them, with their labels."""
        self._settle()
        return list(self._cells.items())

    def collect(self) -> Iterable[Metric]:
        family = self._family(self._name, self._meaning, labels=self._labels)
        for labels, cell in self.cells():
            family.add_metric(labels, cell.value)
        yield family

    def text(self) -> Iterator[str]:
        name = f"{self._name}_total" if self._family is CounterMetricFamily else self._name
        yield _head(name, self._meaning, "counter" if self._family is CounterMetricFamily else "gauge")
        cells, written = self.cells(), self._written
        for start in range(0, len(cells), 10 * _STEP):
            lines = []
            for labels, cell in cells[start : start + 10 * _STEP]:
                series = written.get(labels)
                if series is None:
                    series = written[labels] = f"{name}{_labelled(self._labels, labels)}"
                lines.append(f"{series} {number(cell.value)}\n")
            yield "".join(lines)

    def describe(self) -> Iterable[Metric]:
        return []


class GaugeFamily(CounterFamily):
    """A gauge by labels."""

    _family = GaugeMetricFamily


class Read(Collector):
    """Values by labels that are read when somebody asks; a counter if its name ends in ``_total``, else a gauge."""

    def __init__(
        self, name: str, meaning: str, labels: Sequence[str],
        values: Callable[[], Iterable[tuple[tuple[str, ...], float]]], registry: CollectorRegistry,
    ) -> None:
        self.name, self._meaning, self._labels, self._values = name, meaning, tuple(labels), values
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        kind = CounterMetricFamily if self.name.endswith("_total") else GaugeMetricFamily
        family = kind(self.name, self._meaning, labels=self._labels)
        for labels, value in self._values():
            family.add_metric(labels, value)
        yield family

    def text(self) -> Iterator[str]:
        yield _head(self.name, self._meaning, "counter" if self.name.endswith("_total") else "gauge")
        values = list(self._values())
        for start in range(0, len(values), 5 * _STEP):
            some = values[start : start + 5 * _STEP]
            yield "".join([f"{self.name}{_labelled(self._labels, labels)} {number(v)}\n" for labels, v in some])

    def describe(self) -> Iterable[Metric]:
        return []


class HistogramFamily(Collector):
    """A histogram by labels; ``bounds`` are the buckets' upper ends, rising. ``fine`` observes all of them."""

    def __init__(
        self, name: str, meaning: str, labels: Sequence[str], bounds: Sequence[float], registry: CollectorRegistry,
        fine: Histogram | None = None,
    ) -> None:
        self._name, self._meaning, self._labels, self._bounds = name, meaning, tuple(labels), tuple(bounds)
        self._fine = fine
        self._cells: dict[tuple[str, ...], Histogram] = {}
        self._written: dict[tuple[str, ...], list[str]] = {}
        registry.register(self)

    def at(self, *labels: str) -> Histogram:
        cell = self._cells.get(labels)
        if cell is None:
            cell = self._cells[labels] = Histogram(self._bounds, self._fine)
        return cell

    def cells(self) -> list[tuple[tuple[str, ...], Histogram]]:
        """All of them, with their labels."""
        return list(self._cells.items())

    def settle(self) -> None:
        for cell in self._cells.values():
            cell.settle()

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(self._name, self._meaning, labels=self._labels)
        for labels, cell in list(self._cells.items()):
            so_far, buckets = 0, []
            for bound, count in zip((*self._bounds, float("inf")), list(cell.buckets), strict=True):
                so_far += count
                buckets.append((number(bound), so_far))
            family.add_metric(labels, buckets, cell.sum)
        yield family

    def text(self) -> Iterator[str]:
        yield _head(self._name, self._meaning, "histogram")
        cells = self.cells()
        for start in range(0, len(cells), _STEP):
            lines: list[str] = []
            for labels, cell in cells[start : start + _STEP]:
                series = self._written.get(labels)
                if series is None:
                    series = self._written[labels] = self._series(labels)
                so_far = 0
                for name, count in zip(series, cell.buckets, strict=False):
                    so_far += count
                    lines.append(f"{name} {so_far}.0\n" if so_far < 1_000_000 else f"{name} {number(so_far)}\n")
                lines.append(f"{series[-2]} {number(so_far)}\n{series[-1]} {number(cell.sum)}\n")
            yield "".join(lines)

    def _series(self, labels: tuple[str, ...]) -> list[str]:
        """As they are written: the buckets, the count, the sum."""
        names, own = (*self._labels, "le"), _labelled(self._labels, labels)
        bounds = [number(bound) for bound in (*self._bounds, float("inf"))]
        buckets = [f"{self._name}_bucket{_labelled(names, (*labels, bound))}" for bound in bounds]
        return [*buckets, f"{self._name}_count{own}", f"{self._name}_sum{own}"]

    def describe(self) -> Iterable[Metric]:
        return []
