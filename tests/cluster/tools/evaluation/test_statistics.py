from __future__ import annotations

from math import comb
from random import Random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.tools.evaluation.statistics import Interval, interval, paired, sign_test

SCORES = st.lists(st.floats(0, 100), min_size=1, max_size=50)


@given(SCORES, st.integers())
def test_an_interval_is_the_same_again_and_within_what_there_is(values: list[float], seed: int) -> None:
    found = interval(values, seed)
    assert found == interval(values, seed)
    assert found.low <= found.high
    if not all(value in (0.0, 1.0) for value in values):
        assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9


def test_an_interval_has_the_mean_in_it_as_often_as_it_says() -> None:
    random, hits = Random(1), 0
    for trial in range(200):
        values = [random.gauss(0.5, 0.2) for _ in range(60)]
        found = interval(values, trial)
        hits += found.low <= 0.5 <= found.high
    assert 0.90 <= hits / 200 <= 0.99


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"), [(0, 200, 0.0, 0.01885), (10, 10, 0.7225, 1.0), (50, 100, 0.4038, 0.5962)]
)
def test_of_shares_it_is_wilsons(hits: int, count: int, low: float, high: float) -> None:
    """As statsmodels' proportion_confint(…, method="wilson") says."""
    found = interval([1.0] * hits + [0.0] * (count - hits), 0)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_sign_test_is_a_fair_coins(better: int, worse: int) -> None:
    count, most = better + worse, max(better, worse)
    exact = min(1.0, 2 * sum(comb(count, k) for k in range(most, count + 1)) / 2**count) if count else 1.0
    assert sign_test(better, worse) == pytest.approx(exact)


def test_models_are_compared_on_the_rows_that_both_have() -> None:
    found = paired([0.0, 1.0, None, 0.5, 0.2], [1.0, 1.0, 1.0, None, 0.1], 0)
    assert found is not None
    assert (found.rows, found.better, found.same, found.worse) == (3, 1, 1, 1)
    assert found.difference == pytest.approx(0.3)
    assert found.verdict == ""
    assert paired([None], [1.0], 0) is None


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_the_other_way_round_it_is_the_opposite(scores: list[tuple[float, float]]) -> None:
    first, second = zip(*scores, strict=True)
    one, other = paired(first, second, 0), paired(second, first, 0)
    assert one is not None and other is not None
    assert (one.better, one.worse, one.p) == (other.worse, other.better, other.p)
    assert one.difference == pytest.approx(-other.difference)
    assert one.difference == pytest.approx(fmean(second) - fmean(first))


def test_a_difference_that_all_rows_show_is_told() -> None:
    for rows, verdict in ((30, "better"), (10, "")):  # of few it is too soon to say
        found = paired([0.1 * n for n in range(rows)], [0.1 * n + 0.05 + 0.001 * n for n in range(rows)], 0)
        assert found is not None and found.verdict == verdict
    same = paired([0.5] * 30, [0.5] * 30, 0)
    assert same is not None and (same.verdict, same.interval, same.p) == ("", Interval(0.0, 0.0), 1.0)
