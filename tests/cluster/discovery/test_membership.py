"""Who belongs to the cluster, given what is listed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.discovery.membership import (
    FLAP_MOST_S,
    FLAP_S,
    LEAVE_S,
    LISTS,
    MOST_LEAVE_S,
    REMEMBERED_S,
    Membership,
)  # fmt: skip

FOUR = ["http://a:1", "http://b:1", "http://c:1", "http://d:1"]

#: Lists, and how many seconds come before each.
histories = st.lists(st.tuples(st.sets(st.sampled_from(FOUR)), st.floats(0.0, 90.0)), max_size=40)


def after(*lists: tuple[float, list[str]], begun: list[str] | None = None) -> set[str]:
    membership = Membership(set(FOUR if begun is None else begun))
    for at, listed in lists:
        membership.observe(listed, at)
    return membership.members


def test_who_is_listed_joins_at_once() -> None:
    assert after((0.0, FOUR[:2]), begun=[]) == set(FOUR[:2])


def test_who_is_missing_from_one_list_stays() -> None:
    assert after((0.0, FOUR[1:]), (LEAVE_S - 0.1, FOUR[1:])) == set(FOUR)
    assert after((0.0, FOUR[1:]), (LEAVE_S, FOUR[1:])) == set(FOUR[1:])
    assert after((0.0, FOUR[1:]), (2.0, FOUR), (LEAVE_S, FOUR[1:])) == set(FOUR), "it was there in between"
    assert after((1000.0, FOUR[1:])) == set(FOUR), "one list is no proof, however late"


def test_an_empty_list_removes_nobody_until_several_over_a_minute_are() -> None:
    lists = [(at * MOST_LEAVE_S / LISTS, list[str]()) for at in range(LISTS + 1)]
    assert after(*lists[:-1]) == set(FOUR)
    assert after(*lists) == set()
    assert after((0.0, []), (MOST_LEAVE_S, [])) == set(FOUR), "two lists do not do"
    assert after((0.0, []), (30.0, FOUR), (MOST_LEAVE_S, []), (MOST_LEAVE_S + 1, [])) == set(FOUR)


def test_others_in_the_place_of_all_join_before_those_leave() -> None:
    new = ["http://x:1", "http://y:1"]
    membership = Membership(set(FOUR))
    membership.observe(new, 0.0)
    assert membership.members == {*FOUR, *new}
    for at in (MOST_LEAVE_S / 2, MOST_LEAVE_S):
        membership.observe(new, at)
    assert membership.members == set(new)


def test_half_of_all_may_leave_like_one() -> None:
    assert after((0.0, FOUR[:2]), (LEAVE_S, FOUR[:2])) == set(FOUR[:2])


def test_who_comes_and_goes_has_to_stay_longer_each_time() -> None:
    membership, now, waited = Membership({*FOUR}), 0.0, []
    for _ in range(8):
        for pause in (0.0, LEAVE_S):
            membership.observe(FOUR[1:], now := now + pause)
        assert FOUR[0] not in membership.members
        back = now
        while FOUR[0] not in membership.members:
            membership.observe(FOUR, now)
            now += 1.0
        waited.append(now - 1.0 - back)
    assert waited == [0.0, *(min(FLAP_S * 2**n, FLAP_MOST_S) for n in range(7))]
    membership.observe(FOUR[1:], now)
    membership.observe(FOUR[1:], now := now + LEAVE_S)
    membership.observe(FOUR, now + REMEMBERED_S)
    assert FOUR[0] in membership.members, "it is not held against it for ever"


def test_no_more_join_than_may() -> None:
    membership = Membership(most=2)
    membership.observe(FOUR, 0.0)
    assert membership.members == set(FOUR[:2])


@given(histories)
def test_whoever_was_listed_a_moment_ago_belongs(history: list[tuple[set[str], float]]) -> None:
    """Whoever leaves was missing from two lists and for `LEAVE_S`, and who joins is listed."""
    membership, now, seen = Membership(), 0.0, dict[str, list[float]]()
    for listed, pause in history:
        before, now = set(membership.members), now + pause
        membership.observe(sorted(listed), now)
        assert membership.members - before <= listed
        for url in FOUR:
            seen[url] = [] if url in listed else [*seen.get(url, []), now]
        for url in before - membership.members:
            assert len(seen[url]) >= 2 and now - seen[url][0] >= LEAVE_S


@given(histories)
def test_all_leave_only_when_all_were_missing_for_long(history: list[tuple[set[str], float]]) -> None:
    membership, now = Membership(set(FOUR)), 0.0
    gone_since: float | None = None
    for listed, pause in history:
        before, now = set(membership.members), now + pause
        membership.observe(sorted(listed), now)
        gone_since = (now if gone_since is None else gone_since) if not listed & before else None
        if before and not before & membership.members:
            assert gone_since is not None and now - gone_since >= MOST_LEAVE_S


@given(histories, st.sets(st.sampled_from(FOUR)))
def test_in_the_end_it_is_what_is_listed(history: list[tuple[set[str], float]], last: set[str]) -> None:
    membership, now = Membership(), 0.0
    for listed, pause in history:
        membership.observe(sorted(listed), now := now + pause)
    for _ in range(LISTS + 2):
        membership.observe(sorted(last), now := now + max(MOST_LEAVE_S, FLAP_MOST_S))
    assert membership.members == last and not membership.pending
