"""A state file is looked at without being touched, and whatever moment a crash takes, what was committed is there."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.storage import schema
from cluster.storage import snapshot_file as state_file
from cluster.storage.schema import SCHEMA
from cluster.storage.store import Store
from config.errors import UsageError
from fakes import eventually, rng

#: As the first release wrote it.
VERSION_1 = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE processes (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE adapters (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, record TEXT NOT NULL);
CREATE TABLE versions (name TEXT NOT NULL, number INTEGER NOT NULL, record TEXT NOT NULL, PRIMARY KEY (name, number))
    WITHOUT ROWID;
INSERT INTO meta VALUES ('strategy', '"random"'), ('epochs', '7');
INSERT INTO processes VALUES ('instance_0', '{"pid": 1}');
PRAGMA user_version = 1;
"""


def _old(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.executescript(VERSION_1)
    db.close()


def _everything(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _live(folder: Path, target: Path, *, shm: bool = False) -> None:
    """What a crash would leave of the files of a store that is open."""
    target.mkdir()
    for path in folder.iterdir():
        if shm or not path.name.endswith("-shm"):
            shutil.copyfile(path, target / path.name)


async def test_a_state_of_the_first_version_is_brought_to_this_one_and_a_copy_kept(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    _old(path)
    store = await Store.open(path)
    assert (await store.get("strategy"), await store.get("epochs")) == ("random", 7)
    assert await store.processes() == {"instance_0": {"pid": 1}} and await store.events() == []
    await store.save({}, [(1, {"text": "x"})], 10)
    await store.close()
    assert state_file.check(path) == SCHEMA
    kept = sqlite3.connect(tmp_path / "state.db.v1")
    assert kept.execute("PRAGMA user_version").fetchone() == (1,)
    assert kept.execute("SELECT value FROM meta WHERE key = 'epochs'").fetchone() == ("7",)
    kept.close()
    again = await Store.open(path)
    assert [event["text"] for event in await again.events()] == ["x"]
    await again.close()


async def test_a_migration_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.db"
    _old(path)
    before = path.read_bytes()

    def broken(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE half (x)")
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setitem(schema.STEPS, 1, broken)
    with pytest.raises(UsageError, match=f"version 1 could not be brought to version {schema.SCHEMA}"):
        await Store.open(path)
    assert path.read_bytes() == before
    monkeypatch.undo()
    await (await Store.open(path)).close()


@pytest.mark.parametrize("what", ["newer", "newer in its log only", "truncated", "empty", "garbage", "torn page"])
async def test_what_cannot_be_read_is_refused_in_one_sentence_and_left_byte_for_byte(tmp_path: Path, what: str) -> None:
    work, folder = tmp_path / "work", tmp_path / "crashed"
    work.mkdir()
    store = await Store.open(work / "state.db")
    await store.put(text="x" * 20_000)
    if what.startswith("newer"):
        other = sqlite3.connect(work / "state.db")
        if what == "newer":
            other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        other.execute(f"PRAGMA user_version = {SCHEMA + 1}")
        if what == "newer":
            other.execute("PRAGMA wal_checkpoint(FULL)")
        _live(work, folder, shm=True)
        other.close()
    await store.close()
    if not what.startswith("newer"):
        _live(work, folder)
    path = folder / "state.db"
    content = path.read_bytes()
    if what == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif what == "empty":
        path.write_bytes(b"")
    elif what == "garbage":
        path.write_bytes(b"no database, " * 1000)
    elif what == "torn page":
        path.write_bytes(content[:4096] + os.urandom(4096) + content[8192:])
    before = _everything(folder)
    with pytest.raises(UsageError) as error:
        await Store.open(path)
    text = str(error.value)
    assert text.startswith(str(path)) and text.endswith("it is left as it is") and "\n" not in text
    if what.startswith("newer"):
        assert f"version {SCHEMA + 1}, this clusterctl reads version {SCHEMA}" in text
    assert _everything(folder) == before


@pytest.mark.parametrize("what", ["a folder", "a link in a circle", "its log alone"])
async def test_a_path_that_is_no_file_is_refused(tmp_path: Path, what: str) -> None:
    path = tmp_path / "state.db"
    if what == "a folder":
        path.mkdir()
    elif what == "its log alone":
        (tmp_path / "state.db-wal").write_bytes(b"x")
    else:
        path.symlink_to(path)
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(UsageError) as error:
        await Store.open(path)
    assert "\n" not in str(error.value) and sorted(p.name for p in tmp_path.iterdir()) == before


_OPENS = """\
import asyncio, pathlib, sys
from cluster.storage.store import Store
asyncio.run(Store.open(pathlib.Path(sys.argv[1])))
"""


async def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    await (await Store.open(path)).close()
    path.chmod(0)
    # Root may read everything, unless it gives that up.
    less = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    command = [*less, sys.executable, "-c", _OPENS, str(path)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "UsageError" in done.stderr and "Permission denied" in done.stderr


async def test_wherever_the_log_is_cut_one_of_the_states_that_were_is_there(tmp_path: Path) -> None:
    """A crash of the machine leaves any part of the write-ahead log; one of the process leaves all that was written."""
    work = tmp_path / "work"
    work.mkdir()
    store = await Store.open(work / "state.db")
    random, states = rng(3), [{}]
    for step in range(25):
        values = {f"key{random.randrange(5)}": [step] * random.randrange(300), "step": step}
        await store.put(**values)
        states.append({**states[-1], **values})
    _live(work, tmp_path / "whole")
    log = (tmp_path / "whole" / "state.db-wal").read_bytes()
    seen = set()
    for number, cut in enumerate([*random.sample(range(len(log)), 60), len(log)]):
        folder = tmp_path / f"cut{number}"
        shutil.copytree(tmp_path / "whole", folder)
        (folder / "state.db-wal").write_bytes(log[:cut])
        with state_file.copy(folder / "state.db") as looked:
            found = {key: json.loads(value) for key, value in looked.execute("SELECT key, value FROM meta")}
        assert found in states, "the look that touches nothing"
        seen.add(found.get("step"))
        heir = await Store.open(folder / "state.db")
        assert {key: await heir.get(key) for key in found} == found, "SQLite replays the same"
        await heir.close()
    assert states[-1]["step"] in seen and len(seen) > 10
    await store.close()


async def test_a_log_with_a_damaged_frame_ends_before_it(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    store = await Store.open(work / "state.db")
    await store.put(a=1)
    size = (work / "state.db-wal").stat().st_size
    await store.put(a=2)
    _live(work, tmp_path / "crashed")
    await store.close()
    log = tmp_path / "crashed" / "state.db-wal"
    content = bytearray(log.read_bytes())
    content[size + 100] ^= 0xFF
    log.write_bytes(content)
    with state_file.copy(tmp_path / "crashed" / "state.db") as db:
        assert db.execute("SELECT value FROM meta WHERE key = 'a'").fetchone() == ("1",)
    heir = await Store.open(tmp_path / "crashed" / "state.db")
    assert await heir.get("a") == 1
    await heir.close()


_WRITER = """
import asyncio, sys
from pathlib import Path
from cluster.storage.store import Store
async def main():
    store = await Store.open(Path(sys.argv[1]))
    print("open", flush=True)
    number = await store.get("both") or 0
    while True:
        number += 1
        await store.put(both=number, twin=number, filler="x" * (number % 50 * 100))
        await store.save({f"instance_{number % 3}": {"n": number}}, [(number, {"n": number})], 20)
        await asyncio.sleep(0)
        print(number, flush=True)
asyncio.run(main())
"""


@pytest.mark.processes
async def test_a_writer_killed_at_any_moment_leaves_all_that_it_was_told_is_saved(tmp_path: Path) -> None:
    path, luck, last = tmp_path / "state.db", random.Random(11), 0
    for _ in range(8):
        writer = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs meanwhile
            [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True,
        )
        try:
            assert writer.stdout is not None
            lines = luck.randrange(0, 60)
            said = [writer.stdout.readline() for _ in range(lines)]
        finally:
            writer.send_signal(signal.SIGKILL)
            rest = writer.communicate(timeout=20)[0].splitlines()
        told = [int(line) for line in [*said, *rest] if line.strip().isdigit()]
        last = max([last, *told])
        if not path.exists():
            continue
        store = await Store.open(path)
        both = await store.get("both") or 0
        assert both == (await store.get("twin") or 0) and both >= last
        events = [event["n"] for event in await store.events()]
        assert len(events) <= 20 and events == sorted(events) and (not events or events[-1] >= last)
        await store.close()
    assert last > 20
    assert eventually(lambda: not list(tmp_path.glob("*.new-*")))


def test_a_look_needs_no_room_and_leaves_nothing(tmp_path: Path) -> None:
    _old(tmp_path / "state.db")
    before = _everything(tmp_path)
    assert state_file.check(tmp_path / "state.db") == 1
    assert _everything(tmp_path) == before
