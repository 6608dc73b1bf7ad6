from __future__ import annotations

from collections import Counter
from random import Random

from lb.routing.strategies.base import Features
from lb.routing.strategies.least_connections import LeastConnections
from lbfakes import backend, backends

ANY = Features()


def test_the_one_with_the_fewest_requests_is_chosen() -> None:
    candidates = [backend("instance_0", busy=3), backend("instance_1", busy=1), backend("instance_2", busy=2)]
    assert LeastConnections(Random(1)).choose(candidates, ANY)[0].id == "instance_1"


def test_an_idle_cluster_is_used_evenly() -> None:
    strategy, three = LeastConnections(Random(1)), backends(3)
    assert set(Counter(strategy.choose(three, ANY)[0].id for _ in range(30)).values()) == {10}


def test_held_requests_spread_so_that_counts_differ_by_one_at_most() -> None:
    strategy, three = LeastConnections(Random(1)), backends(3)
    for _ in range(100):
        strategy.choose(three, ANY)[0].lease(lambda reason: None)
        counts = [b.in_flight for b in three]
        assert max(counts) - min(counts) <= 1


def test_a_busy_one_gets_nothing_until_the_others_have_caught_up() -> None:
    strategy, candidates = LeastConnections(Random(1)), [backend("instance_0", busy=5), *backends(3)[1:]]
    for _ in range(10):
        strategy.choose(candidates, ANY)[0].lease(lambda reason: None)
    assert [b.in_flight for b in candidates] == [5, 5, 5]
