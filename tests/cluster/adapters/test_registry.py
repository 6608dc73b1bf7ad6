"""The registry as values: what is kept, what is active, and what follows for a worker."""

from __future__ import annotations

import json
import string
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.adapters.registry import Adapter, Registry, Version, card, from_rows, to_rows

NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=3)
TEXT = st.text(max_size=8)


def version(number: int = 1, content: str | None = None, created: float = 0.0) -> Version:
    content = content or f"h{number}"
    return Version(number, content, f"/store/{content}", 8, ("q_proj", "v_proj"), "base", "/source", 100, created)


def adapter(name: str = "a", *numbers: int, active: int | None = None, created: float = 0.0, **more: bool) -> Adapter:
    numbers = numbers or (1,)
    versions = tuple(version(n, f"{name}{n}", created) for n in numbers)
    return Adapter(name, active or numbers[-1], versions, **more)


def registry(*adapters: Adapter) -> Registry:
    return Registry({a.name: a for a in adapters})


versions = st.builds(
    Version, number=st.integers(1, 99), hash=TEXT, path=TEXT, rank=st.integers(1, 512),
    target_modules=st.lists(TEXT, max_size=3).map(tuple), base_model=st.none() | TEXT, source=TEXT,
    size=st.integers(0, 2**40), created=st.floats(0, 2e9),
)  # fmt: skip


@st.composite
def adapters(draw: st.DrawFn) -> Adapter:
    made = draw(st.lists(versions, min_size=1, max_size=4, unique_by=lambda v: v.number))
    made.sort(key=lambda v: v.number)
    return Adapter(
        draw(NAMES), draw(st.sampled_from(made)).number, tuple(made), draw(TEXT), draw(st.booleans()),
        draw(st.booleans()),
    )  # fmt: skip


registries = st.lists(adapters(), max_size=8, unique_by=lambda a: a.name).map(lambda found: registry(*found))
uses = st.dictionaries(NAMES, st.floats(0, 2e9), max_size=8)


# rows


@settings(max_examples=40, deadline=None)
@given(registries, st.randoms())
def test_what_rows_were_made_of_is_read_back_whatever_the_rows_order(before: Registry, random: object) -> None:
    own, rows = [], []
    for each in before.adapters.values():
        row, numbered = to_rows(each)
        own.append((each.name, json.dumps(row)))
        rows += [(each.name, json.dumps(data)) for _, data in numbered]
    random.shuffle(rows)  # type: ignore[attr-defined]
    after = from_rows(own, rows)
    assert after == before
    assert list(after.adapters) == list(before.adapters)


def test_rows_of_versions_carry_their_number() -> None:
    _, rows = to_rows(adapter("a", 2, 5))
    assert [number for number, _ in rows] == [2, 5]


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"active": 1, "unknown": 2}'])
def test_rows_that_are_none_are_an_error(text: str) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        from_rows([("a", text)], [])


# versions


def test_the_current_version_is_the_active_one() -> None:
    assert adapter("a", 1, 2, 3, active=2).current.number == 2


def test_a_version_it_does_not_have_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        adapter("a", 1).version(2)


@pytest.mark.parametrize(
    ("numbers", "active", "expected"),
    [((1,), 1, None), ((1, 2, 3), 3, 2), ((1, 2, 3), 2, 1), ((1, 2, 3), 1, None), ((2, 7), 7, 2)],
)
def test_the_one_before_is_the_highest_kept_number_below_the_active_one(
    numbers: tuple[int, ...], active: int, expected: int | None
) -> None:
    assert adapter("a", *numbers, active=active).previous() == expected


def test_the_next_number_follows_the_highest_not_the_active_one() -> None:
    assert Adapter("a", 0, ()).next_number() == 1
    assert adapter("a", 1, 4, active=1).next_number() == 5


@settings(max_examples=40, deadline=None)
@given(adapters(), st.integers(1, 6))
def test_a_new_version_is_active_and_the_newest_of_the_others_stay(old: Adapter, keep: int) -> None:
    added = version(old.next_number())
    new = old.with_version(added, keep)
    numbers = [v.number for v in new.versions]
    assert new.current == added
    assert len(numbers) == min(keep, len(old.versions) + 1)
    assert numbers == [*[v.number for v in old.versions], added.number][-len(numbers) :]
    assert replace(new, active=old.active, versions=old.versions) == old


def test_the_same_number_again_replaces() -> None:
    new = adapter("a", 1, 2).with_version(version(2, "other"), 3)
    assert [(v.number, v.hash) for v in new.versions] == [(1, "a1"), (2, "other")]


# the registry


def test_a_changed_adapter_keeps_its_place_and_a_gone_one_leaves_the_others() -> None:
    before = registry(adapter("b"), adapter("a"))
    after = before.with_adapter(adapter("b", 1, 2))
    assert list(after.adapters) == ["b", "a"]
    assert list(before.adapters["b"].versions) == [version(1, "b1")]
    assert list(after.without("b").without("never there").adapters) == ["a"]


def test_content_is_needed_as_long_as_any_version_of_any_adapter_is_it() -> None:
    found = registry(adapter("a", 1, 2), Adapter("b", 1, (version(1, "a1"),)))
    assert found.hashes() == {"a1", "a2"}
    assert found.without("a").hashes() == {"a1"}


# who should be on a worker


@settings(max_examples=40, deadline=None)
@given(registries, uses, st.integers(0, 10))
def test_a_worker_holds_the_pinned_ones_and_no_more_than_the_cap_of_all(
    found: Registry, used: dict[str, float], cap: int
) -> None:
    resident = found.resident(used, cap)
    pinned = {a.name for a in found.adapters.values() if a.pinned}
    assert pinned <= set(resident)
    assert len(resident) <= max(cap, len(pinned) + 1)
    assert all(found.adapters[name].current.path == path for name, path in resident.items())


@settings(max_examples=40, deadline=None)
@given(registries, uses, st.integers(0, 10))
def test_nobody_is_left_out_for_one_that_was_used_before_it(
    found: Registry, used: dict[str, float], cap: int
) -> None:
    resident = found.resident(used, cap)
    others = [a for a in found.adapters.values() if not a.pinned and (a.auto_load or a.name in used)]
    last = {a.name: used.get(a.name, a.current.created) for a in others}
    chosen = [last[name] for name in last if name in resident]
    left = [last[name] for name in last if name not in resident]
    assert not chosen or not left or min(chosen) >= max(left)
    assert not left or len(resident) >= cap, "nobody is left out while there is room"


def test_one_that_is_not_to_be_loaded_by_itself_is_there_from_its_first_use_on() -> None:
    found = registry(adapter("lazy", auto_load=False))
    assert found.resident({}, 8) == {}
    assert found.resident({"lazy": 1.0}, 8) == {"lazy": "/store/lazy1"}


def test_the_least_recently_used_one_makes_room() -> None:
    found = registry(*(adapter(name, created=0) for name in "abc"))
    assert set(found.resident({"a": 3.0, "b": 1.0, "c": 2.0}, 2)) == {"a", "c"}
    assert set(found.resident({"a": 3.0, "b": 4.0, "c": 2.0}, 2)) == {"a", "b"}


def test_one_loaded_just_now_counts_as_used_just_now() -> None:
    found = registry(adapter("old", created=1.0), adapter("new", created=9.0))
    assert set(found.resident({"old": 5.0}, 1)) == {"new"}


def test_a_use_of_a_name_that_is_not_registered_means_nothing() -> None:
    assert registry(adapter("a")).resident({"gone": 5.0}, 4) == {"a": "/store/a1"}


def test_what_is_used_gets_a_place_only_beside_the_pinned_ones() -> None:
    found = registry(adapter("fixed", pinned=True), adapter("a"), adapter("b"))
    assert set(found.resident({"a": 2.0, "b": 3.0}, 2)) == {"fixed", "b"}


def test_the_card_names_the_parent_and_the_path() -> None:
    shown = card(adapter("a", created=12.7), "base", "/store/a1")
    assert (shown["id"], shown["parent"], shown["root"], shown["created"]) == ("a", "base", "/store/a1", 12)
