"""What every strategy keeps to; a new one is held to it by its line in `config.topology.STRATEGIES`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config import topology
from lb.routing import strategies
from lb.routing.strategies.base import AttemptOutcome, Feature, Features
from lb.routing.strategies.registry import STRATEGIES
from lbfakes import backend

CANDIDATES = st.lists(
    st.tuples(st.integers(0, 30), st.integers(0, 5), st.integers(0, 9), st.none() | st.floats(0, 100)),
    min_size=1, max_size=8, unique_by=lambda one: one[0],
)  # fmt: skip
FEATURES = st.builds(
    Features, st.none() | st.sampled_from(["poet", "cook"]), st.none() | st.integers(0, 9),
    st.none() | st.sampled_from("ab"),
)  # fmt: skip


def test_every_file_is_listed_and_every_name_has_a_file() -> None:
    files = {path.stem for path in Path(strategies.__path__[0]).glob("*.py")} - {"__init__", "base", "registry"}
    assert files == set(STRATEGIES)
    assert list(STRATEGIES) == list(topology.STRATEGIES)


@pytest.mark.parametrize("name", STRATEGIES)
def test_it_says_how_it_chooses_what_it_needs_and_what_can_be_adjusted(name: str) -> None:
    strategy = STRATEGIES[name](Random(1))
    assert strategy.name == name
    assert strategy.rule
    assert strategy.needs <= set(Feature)
    assert is_dataclass(strategy.Params)
    assert strategy.params == strategy.Params()


@pytest.mark.parametrize("name", STRATEGIES)
@given(rounds=st.lists(st.tuples(CANDIDATES, FEATURES), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_the_chosen_one_is_a_candidate_whoever_comes_and_goes(
    name: str, rounds: list[tuple[list[tuple[int, int, int, float | None]], Features]], seed: int
) -> None:
    strategy, again = STRATEGIES[name](Random(seed)), STRATEGIES[name](Random(seed))
    for one, features in rounds:
        made = [
            [backend(f"instance_{n}", busy=busy, weight=weight, latency=latency) for n, busy, weight, latency in one]
            for _ in range(2)
        ]
        chosen = []
        for each, candidates in zip((strategy, again), made, strict=True):
            for candidate in candidates:
                each.joined(candidate)
            chosen.append(each.choose(candidates, features)[0])
            assert any(chosen[-1] is b for b in candidates)
            for outcome in (
                AttemptOutcome(chosen[-1].key, features, 200, 0.5, 0.1),
                AttemptOutcome(chosen[-1].key, features, 0, 0.5, None, "broken"),
                AttemptOutcome(("instance_99", 7), features, 499, 0.0),  # of one that is gone by now
            ):
                each.observe(outcome)
            for candidate in candidates:
                each.left(candidate)
        assert chosen[0].id == chosen[1].id  # the same history and seed: the same choice


@pytest.mark.parametrize("name", STRATEGIES)
def test_choosing_takes_no_lease(name: str) -> None:
    only = backend()
    STRATEGIES[name](Random(1)).choose([only], Features())
    assert only.in_flight == 0


@pytest.mark.parametrize("name", STRATEGIES)
def test_nobody_is_left_out_when_requests_are_held(name: str) -> None:
    strategy, three = STRATEGIES[name](Random(1)), [backend(f"instance_{n}", latency=0.1) for n in range(3)]
    for _ in range(90):
        strategy.choose(three, Features())[0].lease(lambda reason: None)
    assert all(b.in_flight >= 15 for b in three)


@pytest.mark.parametrize("name", STRATEGIES)
def test_scores_are_new_with_each_choice_and_explain_it(name: str) -> None:
    strategy = STRATEGIES[name](Random(1))
    three = [backend(f"instance_{n}", busy=n, latency=0.1 * (n + 1), weight=n + 1) for n in range(3)]
    chosen, before = strategy.choose(three, Features())
    if before is None:
        assert not strategy.measure
        return
    assert strategy.measure
    kept = dict(before) if isinstance(before, Mapping) else list(before)
    by_id = before if isinstance(before, Mapping) else dict(zip((b.id for b in three), before, strict=True))
    assert by_id[chosen.id] in (min(by_id.values()), max(by_id.values()))
    assert strategy.choose(three, Features())[1] is not before
    assert (dict(before) if isinstance(before, Mapping) else list(before)) == kept
