"""Who is kept out of rotation by hand, and what is told of them."""

from __future__ import annotations

import pytest

from cluster.fleet.cordons import Cordons
from cluster.fleet.states import WorkerState

V = (1, 5)


def _held(in_flight: int | None = None, grace: float = 10.0) -> Cordons:
    holds = Cordons()
    holds.begin("a", grace, 100.0, V, in_flight)
    return holds


def test_a_drain_ends_when_the_balancer_says_that_nothing_runs() -> None:
    holds = _held()
    holds.in_flight((1, 4), {})
    assert holds.advance(101.0) == [] and not holds.over("a")
    holds.in_flight(V, {"a": 2})
    assert holds.advance(101.0) == [] and holds.shown("a", "ready") == "draining"
    holds.in_flight((1, 9), {"b": 2})
    assert holds.advance(101.0) == [("a", 0)] and holds.shown("a", "ready") == "drained"
    assert holds.advance(102.0) == [], "said once"


@pytest.mark.parametrize("in_flight", [None, 3])
def test_a_drain_ends_when_its_grace_is_over(in_flight: int | None) -> None:
    holds = _held()
    if in_flight:
        holds.in_flight(V, {"a": in_flight})
    assert holds.advance(109.9) == []
    assert holds.advance(110.0) == [("a", in_flight or 0)] and holds.over("a")


def test_a_second_drain_changes_the_grace_only() -> None:
    holds = _held()
    holds.begin("a", 1.0, 105.0, (1, 9), None)
    assert holds.advance(101.0) == [("a", 0)]


def test_without_a_balancer_nothing_runs() -> None:
    assert _held(in_flight=0).advance(100.0) == [("a", 0)]
    holds = _held()
    holds.balancer_lost()
    assert holds.advance(100.0) == [("a", 0)]


def test_only_what_serves_is_shown_as_drained() -> None:
    holds = _held(in_flight=0)
    holds.advance(100.0)
    shown = {state: holds.shown("a", state) for state in WorkerState}
    assert {state for state, text in shown.items() if text == "drained"} == {WorkerState.READY, WorkerState.UNHEALTHY}
    assert all(text in (state, "drained") for state, text in shown.items())
    assert holds.shown("b", "ready") == "ready"


def test_what_is_ended_is_forgotten() -> None:
    holds = _held()
    assert "a" in holds and list(holds) == ["a"] and holds.durable() == {"a": 10.0}
    assert holds.end("a") and not holds.end("a")
    assert "a" not in holds and not holds.over("a") and holds.durable() == {}
