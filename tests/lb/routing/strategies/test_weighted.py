from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from lb.routing.backend import Backend
from lb.routing.strategies.base import Features
from lb.routing.strategies.weighted import Weighted
from lbfakes import backend

ANY = Features()


def weighing(*weights: int) -> list[Backend]:
    return [backend(f"instance_{number}", weight=weight) for number, weight in enumerate(weights)]


def test_weights_3_1_1_over_500_are_300_100_100() -> None:
    strategy, three = Weighted(Random(1)), weighing(3, 1, 1)
    counts = Counter(strategy.choose(three, ANY)[0].id for _ in range(500))
    assert counts == {"instance_0": 300, "instance_1": 100, "instance_2": 100}


def test_the_heavy_one_is_not_chosen_in_one_block() -> None:
    strategy, three = Weighted(Random(1)), weighing(3, 1, 1)
    assert [int(strategy.choose(three, ANY)[0].id[-1]) for _ in range(5)] == [0, 1, 0, 2, 0]


def test_all_weights_zero_are_all_alike() -> None:
    strategy, two = Weighted(Random(1)), weighing(0, 0)
    assert Counter(strategy.choose(two, ANY)[0].id for _ in range(10)) == {"instance_0": 5, "instance_1": 5}


def test_a_weight_changed_while_running_counts_from_then_on() -> None:
    strategy = Weighted(Random(1))
    for _ in range(10):
        strategy.choose(weighing(1, 1), ANY)[0]
    counts = Counter(strategy.choose(weighing(4, 1), ANY)[0].id for _ in range(100))
    assert counts == {"instance_0": 80, "instance_1": 20}


def test_one_that_comes_back_is_not_flooded_for_the_time_it_was_away() -> None:
    strategy, two = Weighted(Random(1)), weighing(1, 1)
    for _ in range(100):
        strategy.choose(two[:1], ANY)[0]
    assert Counter(strategy.choose(two, ANY)[0].id for _ in range(10)) == {"instance_0": 5, "instance_1": 5}


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6).filter(any))
def test_any_full_round_is_exactly_in_proportion(weights: list[int]) -> None:
    strategy, candidates = Weighted(Random(1)), weighing(*weights)
    for _ in range(3):
        counts = Counter(strategy.choose(candidates, ANY)[0].id for _ in range(sum(weights)))
        assert [counts[b.id] for b in candidates] == weights
