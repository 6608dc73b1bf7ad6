from __future__ import annotations

import math
from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from lb.routing.backend import FORGETTING, PATIENCE, Backend
from lb.routing.strategies.base import Features
from lb.routing.strategies.response_time import ResponseTime
from lbfakes import backend, backends

ANY = Features()


def test_the_quick_one_is_preferred() -> None:
    strategy, two = ResponseTime(Random(1)), [backend("instance_0", latency=0.5), backend("instance_1", latency=0.1)]
    assert {strategy.choose(two, ANY)[0].id for _ in range(10)} == {"instance_1"}


def test_held_requests_are_shared_in_proportion_to_speed() -> None:
    strategy, two = ResponseTime(Random(1)), [backend("instance_0", latency=0.4), backend("instance_1", latency=0.1)]
    for _ in range(100):
        strategy.choose(two, ANY)[0].lease(lambda reason: None)
    assert two[0].in_flight == 20
    assert two[1].in_flight == 80


def test_none_measured_yet_are_used_in_turn() -> None:
    strategy, three = ResponseTime(Random(1)), backends(3)
    assert set(Counter(strategy.choose(three, ANY)[0].id for _ in range(30)).values()) == {10}


def test_one_not_measured_yet_is_tried_although_another_is_known_to_be_quick() -> None:
    strategy, two = ResponseTime(Random(1)), [backend("instance_0", latency=0.001), backend("instance_1")]
    assert "instance_1" in {strategy.choose(two, ANY)[0].id for _ in range(2)}


def test_one_not_measured_yet_is_not_flooded() -> None:
    strategy, two = ResponseTime(Random(1)), [backend("instance_0", latency=5.0), backend("instance_1")]
    for _ in range(10):
        strategy.choose(two, ANY)[0].lease(lambda reason: None)
    assert two[1].in_flight <= 5


def test_a_latency_of_zero_does_not_attract_everything_for_ever() -> None:
    strategy, two = ResponseTime(Random(1)), [backend("instance_0", latency=0.0), backend("instance_1", latency=0.0)]
    assert {strategy.choose(two, ANY)[0].id for _ in range(4)} == {"instance_0", "instance_1"}


def _served(strategy: ResponseTime, candidates: list[Backend], latencies: dict[str, float], now: float) -> str:
    """One request that is answered before the next comes."""
    chosen = strategy.choose(candidates, ANY)[0]
    lease = chosen.lease(lambda reason: None)
    chosen.latency.observe(latencies[chosen.id], now)
    lease.release()
    return chosen.id


@given(st.floats(0.001, 1.0), st.floats(1.5, 1000.0), st.integers(2, 6))
def test_one_slow_answer_does_not_keep_a_worker_out(latency: float, times: float, count: int) -> None:
    strategy, some = ResponseTime(Random(1)), backends(count)
    for backend_ in some:
        backend_.latency.observe(latency * (times if backend_.id == "instance_0" else 1.0), 0.0)
    usual = {b.id: latency for b in some}
    asked = [_served(strategy, some, usual, 0.001 * n) for n in range(300)]
    assert asked.index("instance_0") <= PATIENCE + FORGETTING * math.log(times) + count + 4
    assert asked.count("instance_0") >= (300 - asked.index("instance_0")) // (2 * count)


@given(st.floats(0.001, 1.0), st.floats(5.0, 1000.0), st.integers(2, 6), st.floats(0.0, 100.0))
def test_a_worker_that_stays_slow_costs_few_requests_at_any_rate(
    latency: float, times: float, count: int, pause: float
) -> None:
    strategy, some = ResponseTime(Random(1)), backends(count)
    latencies = {b.id: latency * (times if b.id == "instance_0" else 1.0) for b in some}
    asked = [_served(strategy, some, latencies, pause * n) for n in range(600)]
    assert 2 <= asked.count("instance_0") <= 600 / (PATIENCE + FORGETTING * math.log(times) - 4) + 2


def test_while_an_answer_is_awaited_nothing_is_forgotten() -> None:
    strategy, two = ResponseTime(Random(1)), [backend("instance_0", latency=5.0, busy=1), backend("instance_1")]
    two[1].latency.observe(0.01, 0.0)
    for _ in range(500):
        strategy.choose(two, ANY)[0]
    assert two[0].latency.estimate == 5.0
