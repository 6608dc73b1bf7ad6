"""Durable state: what was put is there after a crash, and what is not ours is left alone."""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from cluster.storage.store import SCHEMA, Store
from config.errors import UsageError


async def _closed(path: Path) -> None:
    await (await Store.open(path)).close()


async def test_what_was_put_is_there_after_reopening(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "s.db")
    await store.put(settings={"a": [1, None]}, strategy="random")
    await store.put(strategy="weighted")
    await store.save_process("instance_0", {"pid": 1})
    await store.close()
    store = await Store.open(tmp_path / "s.db")
    assert await store.get("settings") == {"a": [1, None]}
    assert await store.get("strategy") == "weighted"
    assert await store.processes() == {"instance_0": {"pid": 1}}
    await store.close()


async def test_what_was_never_put_is_none(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "s.db")
    assert await store.get("nothing") is None and await store.processes() == {}
    await store.close()


async def test_what_was_put_survives_a_supervisor_that_never_closed(tmp_path: Path) -> None:
    crashed = await Store.open(tmp_path / "s.db")
    await crashed.put(strategy="random")
    heir = await Store.open(tmp_path / "s.db")
    assert await heir.get("strategy") == "random"
    await heir.close()
    await crashed.close()


async def test_a_number_is_never_given_twice(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "s.db")
    numbers = await asyncio.gather(*(store.next_number("incarnations") for _ in range(20)))
    assert sorted(numbers) == list(range(1, 21))
    assert await store.next_number("epochs") == 1
    await store.close()
    store = await Store.open(tmp_path / "s.db")
    assert await store.next_number("incarnations") == 21
    await store.close()


async def test_no_cursor_ends_on_another_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There it would reset a statement that the store's thread is using by then."""
    threads: set[str] = set()

    class Ends(sqlite3.Cursor):
        def __del__(self) -> None:
            threads.add(threading.current_thread().name)

    class Watched(sqlite3.Connection):
        def execute(self, *given: Any) -> sqlite3.Cursor:
            return Ends(self).execute(*given)

        def executemany(self, *given: Any) -> sqlite3.Cursor:
            return Ends(self).executemany(*given)

    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Watched))
    store = await Store.open(tmp_path / "s.db")
    await store.put(a=1, b=2)
    await store.save_process("instance_0", {"pid": 1})
    await store.forget_process("instance_0")
    await store.save({"instance_0": None}, [(1, {})], keep=1)
    await store.replace_all([], [], a=3)
    await store.append_audit(["{}"])
    assert (await store.get("a"), await store.next_number("n"), len(await store.events())) == (3, 1, 1)
    await store.registry(), await store.keys(), await store.audit(None, 9), await store.audit_broken_at()
    await store.close()
    assert threads and all(name.startswith("store") for name in threads), threads


async def test_a_process_is_replaced_and_forgotten_by_name(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "s.db")
    for record in ({"pid": 1}, {"pid": 2}):
        await store.save_process("a", record)
    await store.save_process("b", {"pid": 3})
    await store.forget_process("b")
    await store.forget_process("never there")
    assert await store.processes() == {"a": {"pid": 2}}
    await store.close()


async def test_a_call_that_fails_changes_nothing(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "s.db")
    await store.put(a=1)
    with pytest.raises(TypeError):
        await store.put(a=2, b=object())
    assert (await store.get("a"), await store.get("b")) == (1, None)
    await store.close()


async def test_the_file_is_its_users_alone(tmp_path: Path) -> None:
    await _closed(tmp_path / "s.db")
    assert stat.S_IMODE((tmp_path / "s.db").stat().st_mode) == 0o600


@pytest.mark.parametrize("version", [SCHEMA + 1, 99])
async def test_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path, version: int) -> None:
    path = tmp_path / "s.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE later (x)")
        db.execute(f"PRAGMA user_version = {version}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(UsageError, match=f"version {version}, this clusterctl reads version {SCHEMA}"):
        await Store.open(path)
    assert path.read_bytes() == before


async def test_somebody_elses_database_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs (x)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(UsageError):
        await Store.open(path)
    assert path.read_bytes() == before


async def test_a_corrupt_file_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(b"no database, " * 100)
    with pytest.raises(UsageError, match="not a readable state file") as error:
        await Store.open(path)
    assert str(path) in str(error.value) and path.read_bytes() == b"no database, " * 100


async def test_a_half_written_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    await _closed(path)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(UsageError, match="not a readable state file"):
        await Store.open(path)


@pytest.mark.parametrize("name", ["", "no/folder/s.db"])
async def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        await Store.open(tmp_path / name)


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal"])
async def test_no_symbolic_link_is_followed(tmp_path: Path, suffix: str) -> None:
    """SQLite would."""
    target = tmp_path / "target"
    target.write_bytes(b"mine")
    (tmp_path / f"state.db{suffix}").symlink_to(target)
    with pytest.raises(UsageError, match=f"state.db{suffix}: a symbolic link"):
        await Store.open(tmp_path / "state.db")
    assert target.read_bytes() == b"mine"
