"""The registry in the state file: the old state or the new one, never a mixture."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.adapters.registry import Adapter, Registry, Version
from cluster.storage.store import Store


def version(number: int, size: Any = 100) -> Version:
    return Version(number, f"h{number}", f"/store/h{number}", 8, ("q_proj",), None, "/source", size, 1.5)


def adapter(name: str, *numbers: int, **more: Any) -> Adapter:
    return Adapter(name, numbers[-1], tuple(version(n) for n in numbers), **more)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "s.db")
    yield opened
    await opened.close()


async def reopened(path: Path) -> Registry:
    store = await Store.open(path)
    try:
        return await store.registry()
    finally:
        await store.close()


async def test_a_new_state_has_no_adapters(store: Store) -> None:
    assert await store.registry() == Registry()


async def test_what_was_saved_is_there_for_who_comes_after_without_a_close(store: Store, tmp_path: Path) -> None:
    saved = [adapter("b", 1, 2, description="ünïcode", auto_load=False), adapter("a", 3, pinned=True)]
    await store.save_adapters(saved)
    after = await reopened(tmp_path / "s.db")
    assert list(after.adapters.values()) == saved


async def test_versions_that_are_kept_no_more_are_gone(store: Store) -> None:
    await store.save_adapters([adapter("a", 1, 2, 3)])
    await store.save_adapters([adapter("a", 2, 3, 4)])
    assert [v.number for v in (await store.registry()).adapters["a"].versions] == [2, 3, 4]


async def test_a_change_keeps_the_order_in_which_names_came(store: Store) -> None:
    await store.save_adapters([adapter("b", 1), adapter("a", 1)])
    await store.save_adapters([adapter("b", 1, 2)])
    assert list((await store.registry()).adapters) == ["b", "a"]


async def test_one_that_is_gone_leaves_nothing_and_may_come_again(store: Store) -> None:
    await store.save_adapters([adapter("a", 1, 2), adapter("b", 1)])
    await store.save_adapters([], ["a", "never there"])
    assert list((await store.registry()).adapters) == ["b"]
    await store.save_adapters([adapter("a", 1)])
    assert (await store.registry()).adapters["a"] == adapter("a", 1)


async def test_changed_and_gone_are_one_transaction(store: Store, tmp_path: Path) -> None:
    await store.save_adapters([adapter("a", 1), adapter("b", 1)])
    await store.save_adapters([adapter("c", 1)], ["a"])
    assert list((await reopened(tmp_path / "s.db")).adapters) == ["b", "c"]


async def test_one_that_cannot_be_written_leaves_all_as_it_was(store: Store, tmp_path: Path) -> None:
    """It is the last of three, so that two have been written when it fails."""
    before = [adapter("a", 1, 2), adapter("b", 1)]
    await store.save_adapters(before)
    broken = Adapter("c", 1, (version(1, size=object()),))
    with pytest.raises(TypeError):
        await store.save_adapters([adapter("a", 3), adapter("d", 1), broken], ["b"])
    for found in (await store.registry(), await reopened(tmp_path / "s.db")):
        assert list(found.adapters.values()) == before


async def test_a_database_error_in_the_middle_leaves_all_as_it_was(store: Store, tmp_path: Path) -> None:
    before = [adapter("a", 1, 2), adapter("b", 1)]
    await store.save_adapters(before)
    twice = Adapter("c", 1, (version(1), version(1)))  # the same key again
    with pytest.raises(sqlite3.IntegrityError):
        await store.save_adapters([replace(before[0], active=1), twice], ["b"])
    for found in (await store.registry(), await reopened(tmp_path / "s.db")):
        assert list(found.adapters.values()) == before


async def test_a_failed_call_does_not_hinder_the_next(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError):
        await store.save_adapters([Adapter("c", 1, (version(1), version(1)))])
    await store.save_adapters([adapter("a", 1)])
    assert list((await store.registry()).adapters) == ["a"]
