"""Percentiles as numpy has them, which this project does not need otherwise."""

from __future__ import annotations

import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.tools.bench.stats import FIGURES, percentile, summary

VALUES = st.lists(st.floats(0, 1e6), min_size=2, max_size=200)


@given(VALUES)
def test_percentiles_are_those_of_the_standard_library(values: list[float]) -> None:
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    found = [percentile(sorted(values), percent) for percent in range(1, 100)]
    assert found == pytest.approx(cuts, rel=1e-9, abs=1e-6)


@given(VALUES)
def test_a_summary_is_in_order_and_within_its_values(values: list[float]) -> None:
    found = summary(values)
    assert found is not None and found["count"] == len(values)
    assert found["min"] == min(values) and found["max"] == max(values)
    assert found["min"] <= found["median"] <= found["p95"] <= found["p99"] <= found["max"]
    assert found["median"] == pytest.approx(statistics.median(values))
    assert found["mean"] == pytest.approx(statistics.fmean(values))


def test_one_value_is_every_figure_of_itself_and_none_is_none() -> None:
    found = summary([3.0])
    assert found is not None and {found[figure] for figure in FIGURES} == {3.0}
    assert summary([]) is None


@pytest.mark.parametrize(
    ("values", "percent", "expected"),
    [([1.0, 2.0], 50, 1.5), ([0.0, 10.0], 95, 9.5), ([*map(float, range(101))], 99, 99.0), ([1.0, 2.0, 4.0], 75, 3.0)],
)
def test_a_percentile_between_two_values_is_on_their_line(
    values: list[float], percent: float, expected: float
) -> None:
    assert percentile(values, percent) == pytest.approx(expected)
