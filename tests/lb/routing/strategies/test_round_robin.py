from __future__ import annotations

from collections import Counter
from random import Random

from lb.routing.strategies.base import Features
from lb.routing.strategies.round_robin import RoundRobin
from lbfakes import backends

ANY = Features()


def test_300_requests_over_three_are_100_each() -> None:
    strategy, three = RoundRobin(Random(1)), backends(3)
    assert set(Counter(strategy.choose(three, ANY)[0].id for _ in range(300)).values()) == {100}


def test_any_three_in_a_row_are_all_three() -> None:
    strategy, three = RoundRobin(Random(1)), backends(3)
    chosen = [strategy.choose(three, ANY)[0].id for _ in range(30)]
    assert all(len(set(chosen[i : i + 3])) == 3 for i in range(28))


def test_the_order_of_the_candidates_does_not_matter() -> None:
    strategy, three = RoundRobin(Random(1)), backends(3)
    chosen = [strategy.choose(three if turn % 2 else three[::-1], ANY)[0].id for turn in range(6)]
    assert chosen == ["instance_0", "instance_1", "instance_2"] * 2


def test_instance_10_comes_after_instance_9() -> None:
    strategy, many = RoundRobin(Random(1)), backends(12)
    assert [strategy.choose(many, ANY)[0].id for _ in range(12)] == [b.id for b in many]


def test_one_that_goes_moves_nobody_elses_turn() -> None:
    strategy, three = RoundRobin(Random(1)), backends(3)
    assert strategy.choose(three, ANY)[0] is three[0]
    assert strategy.choose([three[0], three[2]], ANY)[0] is three[2]
    assert strategy.choose(three, ANY)[0] is three[0]
