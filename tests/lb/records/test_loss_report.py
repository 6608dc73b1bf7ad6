"""What became of the requests on a lost worker, one report a loss."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from config.topology import BackendSet, BackendSpec
from lb.records.loss_report import PATIENCE, LossReport
from lb.routing.pool import Pool


def _report(requests: int, moved: int = 0, retried: int = 0, failed: int = 0, incarnation: int = 1) -> dict[str, Any]:
    return {
        "type": "outcome", "backend": "a", "incarnation": incarnation, "requests": requests, "moved": moved,
        "retried": retried, "failed": failed,
    }  # fmt: skip


def test_a_loss_is_reported_when_all_have_come_to_something() -> None:
    outcomes = LossReport()
    assert not outcomes.pending
    outcomes.lost("a", 1, 3, 0.0)
    outcomes.moved("a", 1, 0.1)
    outcomes.retried("a", 1, 0.1)
    assert outcomes.due(0.1) == [] and outcomes.pending
    outcomes.failed("a", 1, 0.2)
    assert outcomes.due(0.2) == [_report(3, 1, 1, 1)]
    assert not outcomes.pending and outcomes.due(9.0) == []


def test_a_loss_with_nothing_on_it_is_reported_at_once() -> None:
    outcomes = LossReport()
    outcomes.lost("a", 1, 0, 0.0)
    assert outcomes.due(0.0) == [_report(0)]


def test_a_report_waits_only_so_long() -> None:
    outcomes = LossReport()
    outcomes.lost("a", 1, 2, 0.0)
    outcomes.moved("a", 1, 0.1)
    assert outcomes.due(PATIENCE - 0.01) == []
    assert outcomes.due(PATIENCE) == [_report(2, 1)]


def test_requests_that_broke_just_before_it_was_known_count() -> None:
    outcomes = LossReport()
    outcomes.broke("a", 1, 0.0)
    outcomes.broke("a", 1, 0.0)
    outcomes.moved("a", 1, 0.01)
    outcomes.lost("a", 1, 1, 0.02)
    outcomes.broke("a", 1, 0.03)  # it was in flight, and so it is counted
    outcomes.moved("a", 1, 0.03)
    outcomes.failed("a", 1, 0.03)
    assert outcomes.due(0.03) == [_report(3, 2, 0, 1)]


def test_what_broke_long_before_does_not_count_nor_what_broke_on_another_incarnation() -> None:
    outcomes = LossReport()
    outcomes.broke("a", 1, 0.0)
    outcomes.retried("a", 1, 0.0)
    outcomes.broke("a", 2, 9.9)
    outcomes.lost("a", 1, 0, 10.0)
    assert outcomes.due(10.0) == [_report(0)]


@given(st.integers(0, 5), st.lists(st.tuples(st.sampled_from(["moved", "retried", "failed"]), st.booleans())))
def test_nothing_is_counted_twice(waiting: int, ends: list[tuple[str, bool]]) -> None:
    """Some break before the loss is known, others are in flight then."""
    outcomes, early = LossReport(), [what for what, before in ends if before]
    for what in early:
        outcomes.broke("a", 1, 0.0)
        getattr(outcomes, what)("a", 1, 0.0)
    late = [what for what, before in ends if not before]
    outcomes.lost("a", 1, len(late) + waiting, 0.1)
    for what in late:
        outcomes.broke("a", 1, 0.1)
        getattr(outcomes, what)("a", 1, 0.1)
    (report,) = outcomes.due(1.0)
    assert report["requests"] == len(ends) + waiting
    every = [what for what, _ in ends]
    assert all(report[what] == every.count(what) for what in ("moved", "retried", "failed"))


def test_many_incarnations_do_not_pile_up() -> None:
    outcomes = LossReport()
    for incarnation in range(10_000):
        outcomes.broke("a", incarnation, 0.0)
    assert len(outcomes._early) <= 256


def _set(revision: int, **states: tuple[int, str]) -> BackendSet:
    backends = tuple(
        BackendSpec(id=name, incarnation=incarnation, state=state, scheme="http", host="h", port=1)
        for name, (incarnation, state) in states.items()
    )
    return BackendSet(1, revision, "round_robin", backends)


def test_the_pool_tells_each_loss_once_with_what_was_in_flight_and_before_its_requests_know() -> None:
    said: list[Any] = []
    pool = Pool(lost=lambda *words: said.append(words))
    pool.apply(_set(1, a=(1, "ready"), b=(2, "ready"), c=(3, "starting")))
    for _ in range(2):
        pool.backends["a"].lease(lambda reason: said.append("evicted"))
    assert said == []
    pool.apply(_set(2, a=(1, "backoff"), b=(2, "draining"), c=(3, "ready")))
    assert said == [("a", 1, 2), "evicted", "evicted"]
    said.clear()
    pool.apply(_set(3, a=(1, "backoff"), b=(2, "draining"), c=(3, "ready")))
    assert [words for words in said if words != "evicted"] == [], "no second report"
    said.clear()
    pool.apply(_set(4, a=(4, "starting"), b=(5, "ready")))
    assert sorted(words for words in said if words != "evicted") == [("b", 2, 0), ("c", 3, 0)]
