"""What a node gives up for the sake of another adapter."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.agent.eviction import LEAST, CachedAdapter, NoRoom, evicted

_MIB = 1024 * 1024

_KEPT = st.dictionaries(
    st.text("abcdef", min_size=1, max_size=3),
    st.builds(CachedAdapter, st.integers(0, 64 * _MIB), st.floats(0, 100)), max_size=12,
)  # fmt: skip


def _bytes(kept: dict[str, CachedAdapter]) -> int:
    return sum(max(one.size, LEAST) for one in kept.values())


@given(_KEPT, st.data(), st.integers(0, 64 * _MIB), st.integers(1, 512 * _MIB))
def test_as_little_as_is_enough_the_oldest_first_and_nothing_that_is_held(
    kept: dict[str, CachedAdapter], data: st.DataObject, needed: int, most: int
) -> None:
    held = data.draw(st.sets(st.sampled_from(sorted(kept)))) if kept else set()
    try:
        gone = evicted(kept, held, needed, most)
    except NoRoom:
        assert _bytes({name: kept[name] for name in held}) + max(needed, LEAST) > most
        return
    left = {name: one for name, one in kept.items() if name not in gone}
    assert not held & set(gone)
    assert _bytes(left) + max(needed, LEAST) <= most
    if gone:
        assert _bytes({**left, gone[-1]: kept[gone[-1]]}) + max(needed, LEAST) > most
        newest = max(kept[name].used for name in gone)
        assert all(one.used >= newest for name, one in left.items() if name not in held)


def test_many_small_ones_are_bounded_in_number() -> None:
    kept = {f"{number}": CachedAdapter(10, number) for number in range(4)}
    assert evicted(kept, (), 10, 4 * LEAST) == ("0",)
    with pytest.raises(NoRoom):
        evicted(kept, kept, 10, 4 * LEAST)
