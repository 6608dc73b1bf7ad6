"""What is learnt of a worker's times."""

from __future__ import annotations

from random import Random

import pytest

from lb.routing.learning import Median, RankTax, Slope


def test_a_slope_is_found_whatever_it_is_taken_for_at_first() -> None:
    random, slope = Random(1), Slope(1.0, 10.0)
    for _ in range(2000):
        x = random.uniform(0, 100)
        slope.observe(x, 3 + 0.5 * x + random.gauss(0, 1))
    assert slope.value == pytest.approx(0.5, rel=0.02)
    assert slope.intercept == pytest.approx(3, abs=0.5)


def test_a_slope_stays_what_it_was_taken_for_while_nothing_tells() -> None:
    slope = Slope(2.0, 10.0)
    for _ in range(100):
        slope.observe(5.0, 1.0)
    assert slope.value == pytest.approx(2.0)


def test_a_slope_follows_what_changes() -> None:
    random, slope = Random(1), Slope(1.0, 10.0)
    for factor in (0.5, 4.0):
        for _ in range(3000):
            x = random.uniform(0, 100)
            slope.observe(x, factor * x)
    assert slope.value == pytest.approx(4.0, rel=0.05)


def test_a_median_is_not_moved_by_a_few_that_waited() -> None:
    random, found = Random(1), Median(1.0)
    for _ in range(2000):
        found.observe(60.0 if random.random() < 0.2 else random.uniform(0.1, 0.3))
    assert 0.15 < found.value < 0.4


def test_what_a_rank_costs_is_told_from_what_a_batch_costs() -> None:
    """Small ranks are given large batches: by rank alone it would seem to cost nothing."""
    random, tax = Random(1), RankTax()
    for _ in range(5000):
        rank = random.choice((8, 16, 32, 64, 128))
        batch = max(1, int(40 - rank / 4 + random.gauss(0, 5)))
        tax.observe(rank, batch, (0.010 + 0.0002 * batch) * (1 + 0.008 * rank))
    assert 0.004 < tax.value < 0.012
