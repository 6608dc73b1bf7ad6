from __future__ import annotations

from collections import Counter
from random import Random

from lb.routing.strategies.base import Features
from lb.routing.strategies.power_of_two import PowerOfTwo
from lbfakes import backend, backends

ANY = Features()


def test_of_two_the_less_busy_is_chosen_every_time() -> None:
    strategy, two = PowerOfTwo(Random(3)), [backend("instance_0", busy=2), backend("instance_1", busy=1)]
    assert {strategy.choose(two, ANY)[0].id for _ in range(50)} == {"instance_1"}


def test_the_busiest_of_three_is_never_chosen() -> None:
    strategy, three = PowerOfTwo(Random(3)), [backend("instance_0", busy=9), *backends(3)[1:]]
    counts = Counter(strategy.choose(three, ANY)[0].id for _ in range(300))
    assert counts["instance_0"] == 0
    assert min(counts["instance_1"], counts["instance_2"]) > 100


def test_idle_ones_share_about_evenly() -> None:
    strategy, four = PowerOfTwo(Random(3)), backends(4)
    counts = Counter(strategy.choose(four, ANY)[0].id for _ in range(4000))
    assert all(880 < counts[b.id] < 1120 for b in four)


def test_held_requests_pile_up_far_less_than_at_random() -> None:
    strategy, ten = PowerOfTwo(Random(3)), backends(10)
    for _ in range(1000):
        strategy.choose(ten, ANY)[0].lease(lambda reason: None)
    assert max(b.in_flight for b in ten) - min(b.in_flight for b in ten) <= 6


def test_a_single_one_is_chosen() -> None:
    only = backends(1)
    assert PowerOfTwo(Random(3)).choose(only, ANY)[0] is only[0]
