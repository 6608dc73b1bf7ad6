"""When a worker that ended by itself is started again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet.restart import Backoff, Decision, History, RestartPolicy, Verdict
from fakes import rng

POLICY = RestartPolicy(Backoff(jitter=0.0))


def _decide(*served: float | None) -> list[Decision]:
    """What is decided of one failure after the other."""
    history, decisions = History(), []
    for seconds in served:
        decisions.append(POLICY.decide(history, seconds, rng().random))
        history = decisions[-1].history
    return decisions


def test_the_first_restart_is_at_once_and_then_the_delay_doubles() -> None:
    assert [d.delay for d in _decide(None, None, None, None)] == [0.0, 1.0, 2.0, 4.0]


def test_the_delay_is_bounded_however_often() -> None:
    assert Backoff(jitter=0.0).delay(7, rng().random) == 60.0
    assert Backoff(jitter=0.0).delay(10_000, rng().random) == 60.0


@given(st.integers(1, 100), st.floats(0, 1, exclude_max=True))
def test_jitter_only_shortens_and_by_no_more_than_a_quarter(restarts: int, luck: float) -> None:
    full = Backoff(jitter=0.0).delay(restarts, lambda: luck)
    assert 0.75 * full <= Backoff().delay(restarts, lambda: luck) <= full


def test_workers_that_die_together_do_not_start_together() -> None:
    random = rng()
    assert len({Backoff().delay(3, random.random) for _ in range(5)}) == 5


def test_five_early_failures_in_a_row_are_a_crash_loop() -> None:
    decisions = _decide(None, 0.0, None, 3.0, None)
    assert [d.verdict for d in decisions] == [Verdict.RESTART] * 4 + [Verdict.GIVE_UP]
    assert decisions[-1].reason == "crash loop: 5 failures in a row before it had served 3 s; gave up"


@pytest.mark.parametrize(("served", "early"), [(None, 1), (0.0, 1), (3.0, 1), (3.01, 0)])
def test_a_failure_is_early_before_ready_or_within_3_s_of_it(served: float | None, early: int) -> None:
    assert _decide(served)[0].history.early == early


def test_a_worker_that_had_served_starts_with_a_clean_record() -> None:
    decisions = _decide(None, None, None, None, 10.0, None, None, None, None, None)
    assert [d.verdict for d in decisions] == [Verdict.RESTART] * 9 + [Verdict.GIVE_UP]
    assert [d.delay for d in decisions[4:7]] == [0.0, 1.0, 2.0]


def test_a_worker_that_serves_for_long_each_time_never_waits() -> None:
    assert {(d.verdict, d.delay) for d in _decide(*[60.0] * 20)} == {(Verdict.RESTART, 0.0)}


def test_the_reason_is_a_sentence_for_people() -> None:
    first, second = _decide(None, None)
    assert first.reason == "restart 1 of 4 at once"
    assert second.reason == "restart 2 of 4 in 1.0 s"


def test_a_restart_is_counted_against_those_that_there_are_before_it_is_given_up() -> None:
    decisions = _decide(60.0, None, None, None, None, None)
    assert [(d.attempt, d.limit) for d in decisions[:-1]] == [(n, 5) for n in range(1, 6)]
    assert decisions[-1].verdict is Verdict.GIVE_UP
    assert [(d.attempt, d.limit) for d in _decide(None, None, None, None)] == [(n, 4) for n in range(1, 5)]
