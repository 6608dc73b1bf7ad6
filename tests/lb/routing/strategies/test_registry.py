from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import topology
from lb.routing.strategies.base import RequestInfo
from lb.routing.strategies.registry import STRATEGIES
from lbfakes import backend

CANDIDATES = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 5), st.integers(0, 9), st.none() | st.floats(0, 100)),
    min_size=1, max_size=8, unique_by=lambda one: one[0],
)  # fmt: skip


def test_the_contract_and_the_registry_name_the_same_strategies() -> None:
    assert list(STRATEGIES) == list(topology.STRATEGIES)


@pytest.mark.parametrize("name", STRATEGIES)
@given(rounds=st.lists(CANDIDATES, min_size=1, max_size=5), seed=st.integers(0, 99))
def test_the_chosen_one_is_always_a_candidate(name: str, rounds: list[list[tuple[int, ...]]], seed: int) -> None:
    strategy = STRATEGIES[name](Random(seed))
    for one in rounds:
        candidates = [
            backend(f"instance_{number}", busy=busy, weight=weight, latency=latency)
            for number, busy, weight, latency in one
        ]
        chosen = strategy.choose(candidates, RequestInfo("base", "/v1/completions"))
        assert any(chosen is b for b in candidates)


@pytest.mark.parametrize("name", STRATEGIES)
def test_choosing_takes_no_lease(name: str) -> None:
    only = backend()
    STRATEGIES[name](Random(1)).choose([only], RequestInfo())
    assert only.in_flight == 0


@pytest.mark.parametrize("name", STRATEGIES)
def test_nobody_is_left_out_when_requests_are_held(name: str) -> None:
    strategy, three = STRATEGIES[name](Random(1)), [backend(f"instance_{n}", latency=0.1) for n in range(3)]
    for _ in range(90):
        strategy.choose(three, RequestInfo()).lease(lambda reason: None)
    assert all(b.in_flight >= 15 for b in three)
