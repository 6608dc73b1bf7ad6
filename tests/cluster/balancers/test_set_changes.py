"""What is new of a backend set makes the whole of the one before, and of no other."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.balancers import set_changes
from cluster.joining.reach import reachable, reachable_change

HOSTS = st.sampled_from(["127.0.0.1", "10.0.0.1"])
BACKENDS = st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(0, 2), HOSTS))
NAMES = st.dictionaries(st.sampled_from("xy"), st.integers(0, 1))


def a_set(revision: int, backends: dict[str, tuple[int, str]], names: dict[str, int]) -> dict[str, Any]:
    rows = [{"id": id, "incarnation": n, "host": host} for id, (n, host) in backends.items()]
    return {"epoch": 1, "revision": revision, "backends": rows, "names": names}


def in_order(backends: dict[str, Any]) -> dict[str, Any]:
    return {**backends, "backends": sorted(backends["backends"], key=lambda each: str(each["id"]))}


@given(st.lists(st.tuples(BACKENDS, NAMES), min_size=2, max_size=5))
def test_who_hears_all_changes_knows_what_who_hears_sets_does(said: list[Any]) -> None:
    sets = [a_set(number, *one) for number, one in enumerate(said)]
    known, elsewhere = sets[0], reachable(sets[0])
    for before, after in pairwise(sets):
        change = set_changes.change(before, after)
        known = set_changes.changed(known, change)
        elsewhere = set_changes.changed(elsewhere, reachable_change(change))
        assert in_order(known) == in_order(after)
        assert in_order(elsewhere) == in_order(reachable(after)), "on another machine"


def test_what_is_as_it_was_is_not_said_again() -> None:
    before = a_set(1, {"a": (1, "h"), "b": (1, "h"), "c": (1, "h")}, {})
    change = set_changes.change(before, a_set(2, {"a": (1, "h"), "b": (2, "h")}, {}))
    assert [each["id"] for each in change["set"]["backends"]] == ["b"]
    assert (change["base"], change["gone"]) == ([1, 1], ["c"])


def test_a_change_of_another_set_is_refused() -> None:
    first, second, third = (a_set(number, {"a": (number, "h")}, {}) for number in (1, 2, 3))
    with pytest.raises(ValueError, match=r"a change of the backend set \[1, 2\], and \[1, 1\] is known"):
        set_changes.changed(first, set_changes.change(second, third))
    with pytest.raises(ValueError, match="and none is known"):
        set_changes.changed(None, set_changes.change(first, second))
