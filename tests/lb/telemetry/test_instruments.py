from __future__ import annotations

import math

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from lb.telemetry.instruments import CounterFamily, Families, GaugeFamily, Histogram, HistogramFamily, Read

labels = st.tuples(
    st.sampled_from(["a", "instance_0", 'quote"', "back\\slash", "new\nline", "Käse", ""]), st.sampled_from(["x", "y"])
)
amounts = st.floats(0, 1e12, allow_nan=False)
levels = st.floats(allow_nan=False)


def told(registry: CollectorRegistry) -> list[str]:
    """The exposition, without when each series was made: that is told by prometheus_client alone."""
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


@pytest.mark.parametrize("name", ["lb_things", "lb_things_total"])
@given(st.lists(st.tuples(labels, amounts)))
def test_counts_are_told_as_prometheus_clients_own(name: str, steps: list[tuple[tuple[str, str], float]]) -> None:
    mine, theirs = CollectorRegistry(), CollectorRegistry()
    counts = CounterFamily(name, "Things: \\ \n counted.", ("id", "kind"), mine)
    counter = prometheus_client.Counter(name, "Things: \\ \n counted.", ("id", "kind"), registry=theirs)
    for at, amount in steps:
        counts.at(*at).value += amount
        counter.labels(*at).inc(amount)
    assert told(mine) == told(theirs)


@given(st.lists(st.tuples(labels, levels)))
def test_levels_are_told_as_prometheus_clients_own(steps: list[tuple[tuple[str, str], float]]) -> None:
    mine, theirs = CollectorRegistry(), CollectorRegistry()
    own = GaugeFamily("lb_level", "A level.", ("id", "kind"), mine)
    gauge = prometheus_client.Gauge("lb_level", "A level.", ("id", "kind"), registry=theirs)
    for at, level in steps:
        own.at(*at).value = level
        gauge.labels(*at).set(level)
    assert told(mine) == told(theirs)


# From 0 on: with a bound below, prometheus_client tells neither sum nor count.
bounds = st.lists(st.floats(0, allow_nan=False, allow_infinity=False), min_size=1, max_size=8, unique=True).map(sorted)


@given(bounds, st.data())
def test_spreads_are_told_as_prometheus_clients_own(given_bounds: list[float], data: st.DataObject) -> None:
    values = st.one_of(st.floats(-1e9, 1e9), st.sampled_from(given_bounds))
    check_spread(given_bounds, data.draw(st.lists(st.tuples(labels, values))))


@pytest.mark.parametrize("value", [0.0, 0.005, 0.01, 0.0100001, 1, 1.0, 2.5, 3, 1e9, -1.0, math.inf])
def test_a_value_at_a_bound_falls_below_it(value: float) -> None:
    check_spread([0.005, 0.01, 1.0, 2.5, 10], [(("a", "x"), value)])


def check_spread(given_bounds: list[float], steps: list[tuple[tuple[str, str], float]]) -> None:
    mine, theirs = CollectorRegistry(), CollectorRegistry()
    own = HistogramFamily("lb_seconds", "How long.", ("id", "kind"), given_bounds, mine)
    histogram = prometheus_client.Histogram(
        "lb_seconds", "How long.", ("id", "kind"), buckets=given_bounds, registry=theirs
    )
    for at, value in steps:
        own.at(*at).observe(value)
        histogram.labels(*at).observe(value)
    assert told(mine) == told(theirs)


def test_without_labels_it_is_told_the_same_once_it_was_written() -> None:
    mine, theirs = CollectorRegistry(), CollectorRegistry()
    CounterFamily("lb_a", "A.", (), mine).at().value += 2
    prometheus_client.Counter("lb_a", "A.", registry=theirs).inc(2)
    GaugeFamily("lb_b", "B.", (), mine).at().value = -1
    prometheus_client.Gauge("lb_b", "B.", registry=theirs).set(-1)
    HistogramFamily("lb_c", "C.", (), (1, 2), mine).at().observe(1.5)
    prometheus_client.Histogram("lb_c", "C.", buckets=(1, 2), registry=theirs).observe(1.5)
    assert told(mine) == told(theirs)


def test_openmetrics_is_told_as_well() -> None:
    mine, theirs = CollectorRegistry(), CollectorRegistry()
    CounterFamily("lb_a_total", "A.", ("id",), mine).at("x").value += 2
    prometheus_client.Counter("lb_a_total", "A.", ("id",), registry=theirs).labels("x").inc(2)
    HistogramFamily("lb_c", "C.", ("id",), (1, 2), mine).at("x").observe(1.5)
    prometheus_client.Histogram("lb_c", "C.", ("id",), buckets=(1, 2), registry=theirs).labels("x").observe(1.5)
    lines = [line for line in generate_openmetrics(theirs).decode().splitlines() if "_created" not in line]
    assert generate_openmetrics(mine).decode().splitlines() == lines


def test_a_cell_stays_the_same_one() -> None:
    counts = CounterFamily("lb_a", "A.", ("id", "kind"), CollectorRegistry())
    spreads = HistogramFamily("lb_b", "B.", ("id",), (1, 2), CollectorRegistry())
    assert counts.at("a", "x") is counts.at("a", "x")
    assert counts.at("a", "x") is not counts.at("x", "a")
    assert spreads.at("a") is spreads.at("a")


@given(st.lists(st.floats(-10, 10)))
def test_a_spread_counts_and_sums(values: list[float]) -> None:
    cell = HistogramFamily("lb_b", "B.", ("id",), (-1, 0, 1.5), CollectorRegistry()).at("a")
    for value in values:
        cell.observe(value)
    assert cell.count == len(values)
    assert cell.sum == sum(values)
    assert cell.buckets == [
        sum(low < value <= high for value in values)
        for low, high in [(-math.inf, -1), (-1, 0), (0, 1.5), (1.5, math.inf)]
    ]


@given(st.lists(st.floats(-10, 10)), st.lists(st.floats(-10, 10)))
def test_several_at_once_are_counted_as_one_by_one(first: list[float], second: list[float]) -> None:
    fine = [Histogram((0.5,)) for _ in range(2)]
    bounds = (-1, 0, 1.5)
    together, single = (HistogramFamily("lb_b", "B.", (), bounds, CollectorRegistry(), each).at() for each in fine)
    all_ = first + second
    for values in (first, second):
        together.observe_all(values)
        for value in values:
            single.observe(value)
    assert [each.buckets for each in fine] == [[sum(v <= 0.5 for v in all_), sum(v > 0.5 for v in all_)]] * 2
    assert together.buckets == single.buckets
    assert together.sum == pytest.approx(single.sum)


def test_what_is_written_while_it_is_told_is_told_later() -> None:
    registry = CollectorRegistry()
    counts = CounterFamily("lb_a", "A.", ("id",), registry)
    counts.at("a").value += 1
    families = counts.collect()
    for family in families:
        counts.at("b").value += 1
        assert [sample.labels["id"] for sample in family.samples] == ["a"]
    assert 'lb_a_total{id="b"} 1.0' in told(registry)


def test_the_text_is_the_one_that_the_client_library_makes() -> None:
    registry = Families()
    counts = CounterFamily("c", "Counts \\ of\nthings", ["b", "a"], registry)
    levels = GaugeFamily("l", "Levels", [], registry)
    spreads = HistogramFamily("s_seconds", "HistogramFamily", ["model"], (0.005, 1.0, 2.5), registry)
    Read("r_total", "Read", ["x", "y"], lambda: [(("1", "2"), 3.0)], registry)
    Read("r", "Read", [], lambda: [((), 3)], registry)
    Read("none", "Nothing", ["x"], lambda: [], registry)
    for number, name in enumerate(('quote"', "back\\slash", "new\nline", "ü", "plain", *map(str, range(300)))):
        counts.at(name, "x").value = 10.0 ** (number % 9) + 0.5
        for value in range(number % 50):
            spreads.at(name).observe(value / 10)
    levels.at().value = 12345678
    spreads.at("plain").buckets[0] = 2_345_678
    expected = generate_latest(registry).decode()
    assert "".join(registry.pieces()) == expected
    assert "".join(registry.pieces()) == expected, "the second time goes by what is remembered"
    assert max(piece.count("\n") for piece in registry.pieces()) <= 400


def test_a_collector_of_another_kind_is_written_too() -> None:
    registry = Families()
    Gauge("g", "A gauge", registry=registry).set(2)
    assert "".join(registry.pieces()) == "# HELP g A gauge\n# TYPE g gauge\ng 2.0\n"
