from __future__ import annotations

from lb.routing.ejection import DYING, FIRST, MOST, Ejection


def test_nothing_is_ejected_at_first() -> None:
    assert not Ejection().active(0.0)


def test_a_failure_ejects_for_a_while() -> None:
    ejection = Ejection()
    assert ejection.failed(100.0) is True
    assert ejection.active(100.0 + FIRST - 0.01)
    assert not ejection.active(100.0 + FIRST)


def test_many_failures_at_once_are_one() -> None:
    ejection = Ejection()
    assert [ejection.failed(100.0) for _ in range(50)] == [True] + [False] * 49
    assert not ejection.active(100.0 + FIRST)


def test_each_failure_in_a_row_ejects_twice_as_long_up_to_a_limit() -> None:
    ejection, now, times = Ejection(), 0.0, []
    for _ in range(8):
        ejection.failed(now)
        times.append(ejection.until - now)
        now = ejection.until
    assert times == [0.5, 1.0, 2.0, 4.0, MOST, MOST, MOST, MOST]


def test_a_success_ends_it_and_the_next_failure_is_a_first_one() -> None:
    ejection = Ejection()
    ejection.failed(0.0)
    ejection.failed(1.0)
    ejection.succeeded()
    assert not ejection.active(1.1)
    ejection.failed(2.0)
    assert ejection.until == 2.0 + FIRST


def test_a_thousand_failures_do_not_overflow() -> None:
    ejection, now = Ejection(), 0.0
    for _ in range(1000):
        ejection.failed(now)
        now = ejection.until
    assert ejection.until - now <= MOST
    assert now > 900 * MOST


def test_one_that_is_dying_is_out_until_the_supervisor_says_otherwise() -> None:
    ejection = Ejection()
    assert ejection.dies(100.0)
    assert not ejection.dies(101.0), "no news"
    ejection.succeeded()
    assert ejection.active(102.0) and ejection.dying(102.0), "an answer that was under way proves nothing"
    assert not ejection.failed(103.0)
    ejection.recovered()
    assert not ejection.active(103.0) and not ejection.dying(103.0)


def test_one_that_was_dying_is_tried_again_in_the_end() -> None:
    """A server that is not ours may have been started again behind the same address."""
    ejection = Ejection()
    ejection.dies(100.0)
    assert not ejection.active(100.0 + DYING)
    assert not ejection.dying(100.0 + DYING)
    ejection.failed(200.0)
    ejection.succeeded()
    assert not ejection.active(200.1)
