from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.routing.backend import Lease
from lbfakes import Waiting, backend


def ignore(_: str) -> None:
    """What a lease does that does not care."""


def test_a_lease_is_one_in_flight_until_it_is_released() -> None:
    one = backend()
    lease = one.lease(ignore)
    assert one.in_flight == 1
    assert lease.release() is True
    assert one.in_flight == 0


def test_a_second_release_counts_nothing() -> None:
    one = backend()
    lease, other = one.lease(ignore), one.lease(ignore)
    assert [lease.release(), lease.release()] == [True, False]
    assert one.in_flight == 1
    assert other.release() is True


def test_a_lease_of_an_earlier_incarnation_does_not_touch_the_new_one() -> None:
    before, after = backend(incarnation=1), backend(incarnation=2)
    old, _ = before.lease(ignore), after.lease(ignore)
    old.release()
    assert after.in_flight == 1


def test_every_lease_is_told_of_the_eviction() -> None:
    one, told = backend(), []
    one.lease(told.append)
    one.lease(told.append)
    one.evict("it is gone")
    assert told == ["it is gone", "it is gone"]


def test_those_whose_answers_have_not_begun_wait() -> None:
    one = backend()
    assert one.waiting() == (0, 0)
    short, long, begun = (Waiting(size) for size in (10, 4000, None))
    one.lease(ignore, short)
    lease = one.lease(ignore, long)
    one.lease(ignore, begun)
    one.lease(ignore)
    assert one.waiting() == (2, 4000)
    lease.release()
    assert one.waiting() == (1, 10)


def test_a_released_lease_is_not_told() -> None:
    one, told = backend(), []
    one.lease(told.append).release()
    one.evict("it is gone")
    assert told == []


def test_a_lease_may_be_released_while_being_told() -> None:
    one = backend()
    leases: list[Lease] = []
    for number in range(3):
        leases.append(one.lease(lambda _, number=number: leases[number].release() and None))
    one.evict("it is gone")
    assert one.in_flight == 0


@pytest.mark.parametrize("state", ["starting", "unhealthy", "draining", "stopping", "backoff", "failed", "stopped"])
def test_only_a_ready_one_is_available(state: str) -> None:
    assert backend(state="ready").available(0.0)
    assert not backend(state=state).available(0.0)


def test_an_ejected_one_is_unavailable_for_a_while() -> None:
    one = backend()
    one.ejection.failed(10.0)
    assert not one.available(10.1)
    assert one.available(20.0)


@pytest.mark.parametrize(("state", "keeps"), [("unhealthy", True), ("draining", True), ("stopping", False),
                                              ("backoff", False), ("failed", False), ("starting", False)])  # fmt: skip
def test_running_requests_may_finish_where_the_worker_is_still_there(state: str, keeps: bool) -> None:
    assert backend(state=state).keeps_running() is keeps


def test_waiting_for_a_failed_one_makes_no_sense() -> None:
    assert backend(state="backoff").may_recover()
    assert not backend(state="failed").may_recover()


def test_it_serves_the_models_it_has() -> None:
    one = backend(models=("base", "poet"))
    assert one.serves("poet")
    assert one.serves(None)
    assert not one.serves("nobody")


def test_before_it_answered_it_serves_what_is_expected_of_it() -> None:
    assert backend(models=(), expected=("base",)).serves("base")
    assert not backend(models=(), expected=("base",)).serves("nobody")


def test_one_of_which_nothing_is_known_may_serve_anything() -> None:
    assert backend(models=(), expected=()).serves("whatever")


def test_what_it_answered_counts_more_than_what_was_expected() -> None:
    assert not backend(models=("base",), expected=("base", "refused")).serves("refused")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=60))
def test_in_flight_is_leases_less_releases_in_any_order(steps: list[tuple[bool, int]]) -> None:
    one, leases, held = backend(), [], set()
    for take, index in steps:
        if take:
            held.add(len(leases))
            leases.append(one.lease(ignore))
        elif leases:
            assert leases[index % len(leases)].release() is (index % len(leases) in held)
            held.discard(index % len(leases))
        assert one.in_flight == len(held)
