"""What each strategy leaves behind for whoever asks why."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

import pytest

from lb.routing.strategies.base import RequestInfo
from lb.routing.strategies.registry import STRATEGIES
from lbfakes import backend

LEAST = ("least_connections", "response_time", "power_of_two")


@pytest.mark.parametrize("name", STRATEGIES)
def test_scores_are_new_with_each_choice_and_explain_it(name: str) -> None:
    strategy = STRATEGIES[name](Random(1))
    three = [backend(f"instance_{n}", busy=n, latency=0.1 * (n + 1), weight=n + 1) for n in range(3)]
    assert (strategy.name, bool(strategy.rule)) == (name, True)
    chosen = strategy.choose(three, RequestInfo())
    before = strategy.scores
    if before is None:
        assert name in ("round_robin", "random")
        assert not strategy.measure
        return
    assert strategy.measure
    kept = dict(before) if isinstance(before, Mapping) else list(before)
    by_id = before if isinstance(before, Mapping) else dict(zip((b.id for b in three), before, strict=True))
    best = min(by_id.values()) if name in LEAST else max(by_id.values())
    assert by_id[chosen.id] == best
    strategy.choose(three, RequestInfo())
    assert strategy.scores is not before
    assert (dict(before) if isinstance(before, Mapping) else list(before)) == kept
