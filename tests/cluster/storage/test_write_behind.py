"""What cannot be saved is kept, told once, and saved when it can be."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cluster.events import Event
from cluster.storage.store import NotSaved, Store
from cluster.storage.write_behind import HEADROOM, WriteBehind
from config.disk import files
from fakes import Clock
from worker.drivers import run_file


@dataclass
class Disk:
    """A store on a disk that can be full, and what is told of it."""

    store: Store
    free: int = 1 << 30
    told: list[str] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)
    pages: int = 0

    def saver(self) -> WriteBehind:
        emit = lambda subject, text, **_: self.told.append(text)  # noqa: E731
        return WriteBehind(self.store, emit, self.clock, lambda path: self.free)

    def full(self, yes: bool) -> None:
        """SQLite itself says so: no page more than there are. Nobody else uses the connection just now."""
        db: sqlite3.Connection = self.store._connection
        self.pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {self.pages if yes else 1_000_000}")


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    store = await Store.open(tmp_path / "state.db")
    yield Disk(store)
    await store.close()


_BIG = {"text": "x" * 50_000}


async def test_what_happens_by_itself_is_saved_when_there_is_room_again(disk: Disk) -> None:
    saver = disk.saver()
    disk.full(True)
    saver.process("instance_0", _BIG)
    saver.event(Event(1, 1.0, "a", "b"))
    for _ in range(3):
        disk.clock.advance(2)
        await saver.flush()
    assert len(disk.told) == 1 and "database or disk is full" in disk.told[0]
    assert await disk.store.processes() == {} and await disk.store.events() == []
    with pytest.raises(NotSaved, match="nothing was changed"):
        await saver.put(wanted=_BIG)
    saver.process("instance_0", {**_BIG, "n": 2})
    disk.full(False)
    disk.clock.advance(2)
    await saver.flush()
    assert (await disk.store.processes())["instance_0"]["n"] == 2
    assert [event["id"] for event in await disk.store.events()] == [1]
    assert disk.told[1:] == ["can be saved again, after 6 s"]
    saver.check()


async def test_a_change_is_stored_or_refused_and_never_later(disk: Disk) -> None:
    saver = disk.saver()
    disk.full(True)
    with pytest.raises(NotSaved, match="nothing was changed"):
        await saver.put(strategy=_BIG)
    disk.full(False)
    disk.clock.advance(10)
    await saver.flush()
    assert await disk.store.get("strategy") is None
    await saver.put(strategy="random")
    assert await disk.store.get("strategy") == "random"


async def test_an_older_value_that_waited_does_not_come_back(disk: Disk) -> None:
    saver = disk.saver()
    disk.full(True)
    saver.value(strategy=_BIG, other=1)
    await saver.flush()
    disk.full(False)
    await saver.put(strategy="random")
    disk.clock.advance(2)
    await saver.flush()
    assert (await disk.store.get("strategy"), await disk.store.get("other")) == ("random", 1)


async def test_numbers_go_on_while_they_cannot_be_saved_and_after(disk: Disk) -> None:
    saver = disk.saver()
    assert await saver.next_number("incarnations") == 1
    disk.store._connection.execute("PRAGMA query_only = 1")
    assert [await saver.next_number("incarnations") for _ in range(3)] == [2, 3, 4]
    disk.store._connection.execute("PRAGMA query_only = 0")
    assert await saver.next_number("incarnations") == 5
    disk.clock.advance(2)
    await saver.flush()
    assert await disk.store.get("incarnations") == 5
    saver.known("incarnations", 40)
    assert await saver.next_number("incarnations") == 41


async def test_too_little_room_refuses_changes_before_anything_fails(disk: Disk) -> None:
    saver = disk.saver()
    saver.check()
    disk.free = HEADROOM - 1
    with pytest.raises(NotSaved, match="is full"):
        saver.check()
    with pytest.raises(NotSaved):
        saver.check()
    disk.free = HEADROOM
    saver.check()
    assert [text.partition(":")[0] for text in disk.told] == ["cannot be saved", "can be saved again, after 0 s"]


async def test_what_is_saved_already_is_not_written_again(disk: Disk) -> None:
    saver = disk.saver()
    record: dict[str, Any] = {"n": 1}
    saver.process("a", record)
    await saver.flush()
    disk.store._connection.execute("PRAGMA query_only = 1")
    saver.process("a", record)
    await saver.flush()
    assert not disk.told
    disk.store._connection.execute("PRAGMA query_only = 0")
    saver.process("a", None)
    await saver.flush()
    assert await disk.store.processes() == {}


def test_a_run_file_keeps_its_notes_and_forgets_its_process(tmp_path: Path) -> None:
    path = tmp_path / "run"
    stat = Path("/proc/self/stat").read_text()
    run_file.prepare(path, {"record": {"incarnation": 3, "link": "a) b (c"}})
    size = path.stat().st_size
    with path.open("r+") as file:
        file.write(stat)
    found = run_file.read(path)
    assert found is not None and found.pid == int(stat.split()[0])
    assert run_file.notes(path)["record"]["incarnation"] == 3
    run_file.prepare(path)
    assert run_file.read(path) is None and run_file.notes(path)["record"]["incarnation"] == 3
    run_file.prepare(path, {"record": {}})
    assert run_file.notes(path) == {"record": {}} and path.stat().st_size == size
    assert path.stat().st_blocks * 512 >= size, "it is no hole"


def test_a_file_that_takes_anothers_place_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "f"
    with files.replacing(path) as file:
        file.write(b"one")
    with pytest.raises(OSError, match="full"), files.replacing(path) as file:
        file.write(b"two")
        raise OSError(errno.ENOSPC, "full")
    assert path.read_bytes() == b"one" and list(tmp_path.iterdir()) == [path]


async def test_two_who_save_at_the_same_time_are_in_nobodys_way(disk: Disk) -> None:
    saver = disk.saver()
    saver.value(imported=None)
    await asyncio.gather(*(saver.forget_process("lb-1") for _ in range(5)), saver.flush())
    await saver.save_process("lb-1", {"pid": 1})
    assert await disk.store.processes() == {"lb-1": {"pid": 1}}
