"""Names and their backends."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lb.routing.hashing import BoundedHash
from lbfakes import backend


@given(st.integers(2, 8), st.text(max_size=9), st.integers(0, 7))
def test_who_leaves_takes_only_its_own_names_along(count: int, name: str, gone: int) -> None:
    backends = [backend(f"instance_{n}") for n in range(count)]
    first, _ = BoundedHash().first(name, backends)
    left = [b for n, b in enumerate(backends) if n != gone % count]
    if first in left:
        assert BoundedHash().first(name, left)[0] is first


@given(st.lists(st.integers(0, 20), min_size=2, max_size=8), st.text(max_size=9))
def test_nobody_is_given_more_than_a_quarter_above_the_mean(loads: list[int], name: str) -> None:
    backends = [backend(f"instance_{n}", busy=load) for n, load in enumerate(loads)]
    chosen, seen = BoundedHash().first(name, backends)
    assert seen == loads
    assert chosen.load < 1.25 * (sum(loads) + 1) / len(loads) + 1
