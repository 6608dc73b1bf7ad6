"""Durable state of one cluster: SQLite in the state directory, written by the supervisor alone.

All of it runs on one thread off the event loop, in the order it was asked for. Each call is one transaction.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from cluster.adapters import Adapter, Registry, from_rows, to_rows
from config.errors import UsageError

SCHEMA = 1

_T = TypeVar("_T")

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE processes (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE adapters (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, record TEXT NOT NULL);
CREATE TABLE versions (name TEXT NOT NULL, number INTEGER NOT NULL, record TEXT NOT NULL, PRIMARY KEY (name, number))
    WITHOUT ROWID;
"""


class Store:
    """Use `open`; `close` waits for what was asked for."""

    def __init__(self, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self._connection = connection
        self._thread = thread

    @classmethod
    async def open(cls, path: Path) -> Store:
        """Raises UsageError for a file that is no state of this version; such a file is left as it is."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        connection = await asyncio.get_running_loop().run_in_executor(thread, _connect, path)
        return cls(connection, thread)

    async def _run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        def transaction() -> _T:
            with self._connection:
                return work(self._connection)

        return await asyncio.get_running_loop().run_in_executor(self._thread, transaction)

    async def get(self, key: str) -> Any:
        """The value of ``key``, or None."""

        def work(db: sqlite3.Connection) -> Any:
            row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            return json.loads(row[0]) if row else None

        return await self._run(work)

    async def put(self, **values: Any) -> None:
        """Sets all of ``values`` in one transaction."""
        rows = [(key, json.dumps(value)) for key, value in values.items()]
        await self._run(lambda db: db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", rows))

    async def next_number(self, key: str) -> int:
        """1, 2, 3 …, never the same twice in the life of a state directory."""

        def work(db: sqlite3.Connection) -> int:
            row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
            number = (int(row[0]) if row else 0) + 1
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, str(number)))
            return number

        return await self._run(work)

    async def processes(self) -> dict[str, dict[str, Any]]:
        rows = await self._run(lambda db: db.execute("SELECT id, record FROM processes").fetchall())
        return {name: json.loads(record) for name, record in rows}

    async def save_process(self, name: str, record: Mapping[str, Any]) -> None:
        row = (name, json.dumps(record))
        await self._run(lambda db: db.execute("INSERT OR REPLACE INTO processes VALUES (?, ?)", row))

    async def forget_process(self, name: str) -> None:
        await self._run(lambda db: db.execute("DELETE FROM processes WHERE id = ?", (name,)))

    async def registry(self) -> Registry:
        def work(db: sqlite3.Connection) -> Registry:
            adapters = db.execute("SELECT name, record FROM adapters ORDER BY id").fetchall()
            return from_rows(adapters, db.execute("SELECT name, record FROM versions").fetchall())

        return await self._run(work)

    async def save_adapters(self, changed: Iterable[Adapter], gone: Iterable[str] = ()) -> None:
        """All of it or, if we are killed on the way, nothing."""
        rows = [(adapter.name, *to_rows(adapter)) for adapter in changed]
        names = [*(name for name, _, _ in rows), *gone]

        def work(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM versions WHERE name = ?", [(name,) for name in names])
            db.executemany("DELETE FROM adapters WHERE name = ?", [(name,) for name in gone])
            for name, own, versions in rows:
                db.execute(
                    "INSERT INTO adapters (name, record) VALUES (?, ?) "
                    "ON CONFLICT (name) DO UPDATE SET record = excluded.record",
                    (name, json.dumps(own)),
                )
                db.executemany(
                    "INSERT INTO versions VALUES (?, ?, ?)", [(name, n, json.dumps(v)) for n, v in versions]
                )

        await self._run(work)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()


def _connect(path: Path) -> sqlite3.Connection:
    fresh = not path.exists()
    try:
        connection = sqlite3.connect(path, check_same_thread=False)
    except sqlite3.OperationalError as error:
        raise UsageError(f"{path}: {error}") from None
    try:
        if fresh:
            path.chmod(0o600)
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            connection.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;")
        elif version != SCHEMA:
            raise UsageError(
                f"{path}: state of version {version}, this clusterctl reads version {SCHEMA}; it is left as it is"
            )
        connection.execute("PRAGMA journal_mode = WAL")  # not before: somebody else's file is not ours to change
    except sqlite3.DatabaseError as error:
        connection.close()
        raise UsageError(f"{path}: not a readable state file ({error}); it is left as it is") from None
    except BaseException:
        connection.close()
        raise
    return connection
