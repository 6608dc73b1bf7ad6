from __future__ import annotations

from collections import Counter
from random import Random

from lb.strategies.base import RequestInfo
from lb.strategies.response_time import ResponseTime
from lbfakes import backend, backends

ANY = RequestInfo()


def test_the_quick_one_is_preferred() -> None:
    strategy, two = ResponseTime(Random(1)), [backend("instance_0", latency=0.5), backend("instance_1", latency=0.1)]
    assert {strategy.choose(two, ANY).id for _ in range(10)} == {"instance_1"}


def test_held_requests_are_shared_in_proportion_to_speed() -> None:
    strategy, two = ResponseTime(Random(1)), [backend("instance_0", latency=0.4), backend("instance_1", latency=0.1)]
    for _ in range(100):
        strategy.choose(two, ANY).lease(lambda reason: None)
    assert two[0].in_flight == 20
    assert two[1].in_flight == 80


def test_none_measured_yet_are_used_in_turn() -> None:
    strategy, three = ResponseTime(Random(1)), backends(3)
    assert set(Counter(strategy.choose(three, ANY).id for _ in range(30)).values()) == {10}


def test_one_not_measured_yet_is_tried_although_another_is_known_to_be_quick() -> None:
    strategy, two = ResponseTime(Random(1)), [backend("instance_0", latency=0.001), backend("instance_1")]
    assert "instance_1" in {strategy.choose(two, ANY).id for _ in range(2)}


def test_one_not_measured_yet_is_not_flooded() -> None:
    strategy, two = ResponseTime(Random(1)), [backend("instance_0", latency=5.0), backend("instance_1")]
    for _ in range(10):
        strategy.choose(two, ANY).lease(lambda reason: None)
    assert two[1].in_flight <= 5


def test_a_latency_of_zero_does_not_attract_everything_for_ever() -> None:
    strategy, two = ResponseTime(Random(1)), [backend("instance_0", latency=0.0), backend("instance_1", latency=0.0)]
    assert {strategy.choose(two, ANY).id for _ in range(4)} == {"instance_0", "instance_1"}
