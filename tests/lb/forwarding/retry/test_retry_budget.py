"""How often requests are made again: the budget over all of them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lb.forwarding.retry.retry_budget import RetryBudget

TIMES = st.lists(st.floats(0, 0.5), max_size=200)


@given(TIMES)
def test_at_least_ten_at_a_time(gaps: list[float]) -> None:
    budget, now = RetryBudget(), 0.0
    for gap in gaps:
        now += gap
    assert [budget.take(now) for _ in range(11)] == [True] * 10 + [False]
    budget.give_back()
    assert budget.take(now)


@given(TIMES, st.floats(0, 30))
def test_never_more_than_a_fifth_of_what_came_lately_or_ten(gaps: list[float], later: float) -> None:
    budget, now, came = RetryBudget(), 100.0, []
    for gap in gaps:
        now += gap
        budget.request(now)
        came.append(now)
    now += later
    taken = 0
    while budget.take(now):
        taken += 1
    assert taken >= 10
    assert taken <= max(10, 0.2 * sum(at > now - 20.0 for at in came) + 1)


def test_of_a_steady_stream_of_requests_a_fifth_may_be_under_way_again() -> None:
    budget = RetryBudget()
    for number in range(2_000):  # a hundred a second
        budget.request(number / 100)
    taken = 0
    while budget.take(20.0):
        taken += 1
    assert 190 <= taken <= 210


def test_what_came_long_ago_counts_no_more() -> None:
    budget = RetryBudget()
    for _ in range(1_000):
        budget.request(5.0)
    assert budget.recent(5.0) == 1_000
    assert budget.recent(40.0) == 0
    budget.request(40.0)
    assert budget.recent(40.0) == 1
