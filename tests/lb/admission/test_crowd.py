from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lb.admission.access.admin_guard import is_loopback
from lb.admission.crowd import Crowd
from lb.protocol.errors import ProxyError


def crowd(most: int = 10, from_one: int = 3, bodies: int = 2) -> Crowd:
    return Crowd(most, from_one, bodies, is_loopback)


@pytest.mark.parametrize(
    ("peer", "origin"),
    [
        ("10.0.0.1", "10.0.0.1"), ("::ffff:10.0.0.1", "10.0.0.1"), ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"), ("fe80::1%eth0", "fe80::/64"), ("127.0.0.1", ""), ("::1", ""),
        ("::ffff:127.0.0.1", ""), ("", ""),
    ],
)  # fmt: skip
def test_an_address_is_counted_as_who_may_have_it(peer: str, origin: str) -> None:
    assert crowd().origin(peer) == origin


def refused(among: Crowd, peer: str) -> int | None:
    error = among.enter(among.origin(peer))
    return None if error is None else error.status


def test_one_address_may_not_have_all_connections() -> None:
    among = crowd()
    assert [refused(among, "10.0.0.1") for _ in range(4)] == [None, None, None, 429]
    assert refused(among, "10.0.0.2") is None
    among.leave("10.0.0.1")
    assert refused(among, "10.0.0.1") is None


def test_an_address_that_many_share_has_all_there_are() -> None:
    among = crowd()
    assert [refused(among, "127.0.0.1") for _ in range(11)] == [None] * 10 + [503]
    among.leave("")
    assert refused(among, "::1") is None


def test_uploads_are_counted_by_address_too() -> None:
    among = crowd()
    among.begin_body("10.0.0.1")
    among.begin_body("10.0.0.1")
    with pytest.raises(ProxyError) as caught:
        among.begin_body("10.0.0.1")
    assert (caught.value.status, caught.value.retry_after) == (429, 1)
    among.begin_body("10.0.0.2")
    for _ in range(9):
        among.begin_body("")
    among.end_body("10.0.0.1")
    among.begin_body("10.0.0.1")


@given(st.lists(st.tuples(st.sampled_from(["10.0.0.1", "10.0.0.2", "::1"]), st.booleans())))
def test_what_has_entered_and_left_is_forgotten(steps: list[tuple[str, bool]]) -> None:
    among = crowd()
    inside: list[str] = []
    for peer, enters in steps:
        origin = among.origin(peer)
        if enters:
            if among.enter(origin) is None:
                inside.append(origin)
        elif origin in inside:
            inside.remove(origin)
            among.leave(origin)
    assert among.size == len(inside) <= 10
    for origin in inside:
        among.leave(origin)
    assert (among.size, among._connections) == (0, {})
