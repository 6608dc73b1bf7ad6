"""The audit in the state file: it only grows, and shows whether anybody has been at it."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from pathlib import Path

import pytest

from cluster.storage import audit, schema
from cluster.storage.store import Store


async def _filled(path: Path, count: int = 5) -> Store:
    store = await Store.open(path)
    await store.append_audit([json.dumps({"number": number}) for number in range(count)])
    return store


async def test_rows_come_back_newest_first_and_go_on_after_a_restart(tmp_path: Path) -> None:
    store = await _filled(tmp_path / "s.db")
    await store.close()
    store = await Store.open(tmp_path / "s.db")
    await store.append_audit(['{"number": 5}'])
    rows = await store.audit(None, 3)
    assert [(row.id, json.loads(row.record)["number"]) for row in rows] == [(6, 5), (5, 4), (4, 3)]
    assert [row.id for row in await store.audit(3, 9)] == [2, 1]
    assert await store.audit_broken_at() is None
    assert rows[0].seal == audit.sealed(rows[1].seal, rows[0].record)
    await store.close()


@pytest.mark.parametrize("change", ["DELETE FROM audit WHERE id = 2", "UPDATE audit SET record = '{}' WHERE id = 2"])
async def test_no_row_is_changed_or_taken_out(tmp_path: Path, change: str) -> None:
    await (await _filled(tmp_path / "s.db")).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "s.db")) as db:
        with pytest.raises(sqlite3.DatabaseError, match="only grows"):
            db.execute(change)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ("DELETE FROM audit WHERE id = 2", 3), ("UPDATE audit SET record = '{}' WHERE id = 2", 2),
        ("DELETE FROM audit WHERE id = 1", 2), ("UPDATE audit SET seal = '00' WHERE id = 4", 4),
        ("INSERT INTO audit VALUES (9, '{}', 'made up')", 9),
    ],
)  # fmt: skip
async def test_who_goes_round_that_is_found_out(tmp_path: Path, change: str, where: int) -> None:
    await (await _filled(tmp_path / "s.db")).close()
    with contextlib.closing(sqlite3.connect(tmp_path / "s.db")) as db:
        db.executescript(f"DROP TRIGGER audit_keeps; DROP TRIGGER audit_stays; {change};")
    store = await Store.open(tmp_path / "s.db")
    assert await store.audit_broken_at() == where
    await store.close()


async def test_a_state_of_before_there_was_one_is_brought_up(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    await (await Store.open(path)).close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript("DROP TABLE audit; PRAGMA user_version = 3")
    store = await _filled(path, 1)
    assert await store.audit_broken_at() is None and len(await store.audit(None, 9)) == 1
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone()[0] == schema.SCHEMA
        with pytest.raises(sqlite3.DatabaseError, match="only grows"):
            db.execute("DELETE FROM audit")
