from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from cluster.tools.top.series import buckets, by, grown, quantile, read

PAGE = r"""# HELP a_total words
a_total{instance="i 0",model="a\"b\\c\n"} 3
a_total{model="y",instance="i 0"} 4.5 1700000000
a_total{instance="i1"} +Inf
a_total_more 7
b 1e3
a_total{broken
a_total{instance="i1"} many
"""


def test_only_what_is_wanted_is_read() -> None:
    found = read(PAGE, ["a_total", "b", "none"])
    assert set(found) == {"a_total", "b"}
    assert found["b"] == {frozenset(): 1000.0}
    assert by(found["a_total"], "instance") == {"i 0": 7.5, "i1": float("inf")}
    assert set(by(found["a_total"], "model")) == {'a"b\\c\n', "y"}


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.integers(0, 10**6), max_size=5))
def test_it_reads_what_the_official_library_writes(values: dict[str, int]) -> None:
    registry = CollectorRegistry()
    counter = Counter("x", "words", ["instance"], registry=registry)
    for name, value in values.items():
        counter.labels(name).inc(value)
    found = read(generate_latest(registry).decode(), ["x_total"])
    assert by(found.get("x_total", {}), "instance") == {name: float(v) for name, v in values.items() if name}


def test_growth_over_a_new_start() -> None:
    assert grown({"a": 5.0, "b": 9.0, "gone": 1.0}, {"a": 7.0, "b": 2.0, "new": 100.0}) == {"a": 2.0, "b": 2.0}


@given(st.lists(st.floats(0.001, 100), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    bounds = (0.01, 0.1, 1.0, 10.0)
    registry = CollectorRegistry()
    histogram = Histogram("h", "words", buckets=bounds, registry=registry)
    for value in values:
        histogram.observe(value)
    counts = buckets(read(generate_latest(registry).decode(), ["h_bucket"])["h_bucket"])
    found = quantile(share, [(float(bound), count) for bound, count in counts.items()])
    rank = max(0, -int(-share * len(values) // 1) - 1)
    true = sorted(values)[min(rank, len(values) - 1)]
    edges = (0.0, *bounds)
    at = next((n for n, bound in enumerate(bounds) if true <= bound), None)
    assert found is not None
    if at is None:
        assert found == bounds[-1]
    else:
        assert edges[at] - 1e-9 <= found <= bounds[at] + 1e-9


def test_without_observations_there_is_no_quantile() -> None:
    assert quantile(0.5, []) is None
    assert quantile(0.5, [(1.0, 0.0), (float("inf"), 0.0)]) is None
    assert quantile(0.5, [(1.0, 10.0), (2.0, 20.0), (float("inf"), 20.0)]) == pytest.approx(1.0)
