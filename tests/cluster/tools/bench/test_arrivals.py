"""Arrivals are a Poisson process of the rate that was asked for, and the same for the same seed."""

from __future__ import annotations

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.tools.bench.arrivals import poisson

RATES = st.floats(0.01, 10_000)


@given(RATES, st.integers(1, 300), st.integers())
def test_so_many_requests_come_in_the_time_that_the_rate_gives_them(rate: float, requests: int, seed: int) -> None:
    times = list(poisson(rate, Random(seed), requests, None))
    assert len(times) == requests and times == sorted(times) and times[0] > 0
    assert times[-1] == pytest.approx(requests / rate)
    assert times == list(poisson(rate, Random(seed), requests, None))


@given(st.floats(0.1, 1000), st.one_of(st.none(), st.integers(1, 50)), st.floats(0.001, 1), st.integers())
def test_no_arrival_is_after_the_duration(rate: float, requests: int | None, duration: float, seed: int) -> None:
    times = list(poisson(rate, Random(seed), requests, duration))
    assert times == sorted(times) and all(0 < time < duration for time in times)
    assert requests is None or len(times) <= requests


def test_gaps_are_exponential() -> None:
    times = list(poisson(50, Random(1), None, 400))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(1 / 50, rel=0.05)
    assert sum(gap > mean for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.02)


def test_another_seed_is_another_sequence() -> None:
    assert list(poisson(1, Random(1), 5, None)) != list(poisson(1, Random(2), 5, None))
