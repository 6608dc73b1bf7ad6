"""Durable state of one cluster: SQLite in the state directory, written by the supervisor alone.

All of it runs on one thread off the event loop, in the order it was asked for. Each call is one transaction, and
raises NotSaved where the file cannot be written: nothing of it was done then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from cluster.adapters.registry import Adapter, Registry, from_rows, to_rows
from cluster.storage import audit, schema
from cluster.storage import snapshot_file as state_file
from cluster.storage.audit import AuditRow
from cluster.storage.schema import SCHEMA
from config.disk import files
from config.errors import UsageError
from config.identity import api_keys
from config.identity.api_keys import ApiKey
from config.identity.principal import Scope


class Records(Protocol):
    """Where it is written down who runs, by the name of the process: the store, or what keeps for it what it cannot
    take just now."""

    async def processes(self) -> dict[str, dict[str, Any]]: ...

    async def save_process(self, name: str, record: Mapping[str, Any]) -> None: ...

    async def forget_process(self, name: str) -> None: ...

    async def next_number(self, key: str) -> int: ...


_T = TypeVar("_T")

#: Pages in the write-ahead log before they are moved into the file: few, as whoever comes after a crash reads them all.
_CHECKPOINT_PAGES = 100

#: Of a path that becomes a state file once it is one.
_NEW = ".new-"


class NotSaved(Exception):
    """The state file cannot be written; the text says what is wrong with it."""


class Store:
    """Use `open`; `close` waits for what was asked for."""

    def __init__(self, path: Path, connection: sqlite3.Connection, thread: ThreadPoolExecutor) -> None:
        self.path = path
        self._connection = connection
        self._thread = thread

    @classmethod
    async def open(cls, path: Path) -> Store:
        """One of an earlier version is brought up to this one, and a copy of it kept. Raises UsageError for a file that
        is no state of this version or an earlier one, or is damaged; such a file is left as it is."""
        thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        try:
            connection = await asyncio.get_running_loop().run_in_executor(thread, _connect, path)
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(path, connection, thread)

    async def _run(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """No cursor leaves the store's thread: one that ended on another would reset its statement, which a connection
        keeps and may be using again (SQLITE_MISUSE)."""

        def transaction() -> Any:
            try:
                with self._connection:
                    result = work(self._connection)
                    return None if isinstance(result, sqlite3.Cursor) else result
            except sqlite3.DatabaseError as error:
                # OperationalError: the disk is full or broken; DatabaseError itself: the file is damaged.
                if type(error) in (sqlite3.OperationalError, sqlite3.DatabaseError):
                    raise NotSaved(f"{self.path}: {error}") from error
                raise

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

    async def save(
        self, processes: Mapping[str, Mapping[str, Any] | None], events: Iterable[tuple[int, Mapping[str, Any]]],
        keep: int,
    ) -> None:
        """Records of processes (None: forgotten), and events by number, of which the last ``keep`` stay."""
        rows = [(name, json.dumps(record)) for name, record in processes.items() if record is not None]
        gone = [(name,) for name, record in processes.items() if record is None]
        told = [(number, json.dumps(event)) for number, event in events]

        def work(db: sqlite3.Connection) -> None:
            db.executemany("INSERT OR REPLACE INTO processes VALUES (?, ?)", rows)
            db.executemany("DELETE FROM processes WHERE id = ?", gone)
            db.executemany("INSERT OR REPLACE INTO events VALUES (?, ?)", told)
            if told:
                db.execute(
                    "DELETE FROM events WHERE id <= (SELECT id FROM events ORDER BY id DESC LIMIT 1 OFFSET ?)", (keep,)
                )

        await self._run(work)

    async def events(self) -> list[dict[str, Any]]:
        """Those that are kept, the oldest first."""
        rows = await self._run(lambda db: db.execute("SELECT record FROM events ORDER BY id").fetchall())
        return [json.loads(record) for (record,) in rows]

    async def registry(self) -> Registry:
        return await self._run(read_registry)

    async def save_adapters(self, changed: Iterable[Adapter], gone: Iterable[str] = ()) -> None:
        """All of it or, if we are killed on the way, nothing."""
        rows = list(changed)
        names = [*(adapter.name for adapter in rows), *gone]
        await self._run(lambda db: write_adapters(db, rows, names, list(gone)))

    async def keys(self) -> list[ApiKey]:
        return await self._run(read_keys)

    async def save_keys(self, changed: Iterable[ApiKey], gone: Iterable[str] = ()) -> None:
        """All of it or nothing; and that there has been a key for models, if one is among them."""
        rows, names = list(changed), [(name,) for name in gone]

        def work(db: sqlite3.Connection) -> None:
            write_keys(db, rows)
            db.executemany("DELETE FROM keys WHERE name = ?", names)

        await self._run(work)

    async def append_audit(self, records: Sequence[str]) -> None:
        """JSON texts, sealed one behind the other."""
        await self._run(lambda db: audit.append(db, records))

    async def audit(self, before: int | None, limit: int) -> list[AuditRow]:
        return await self._run(lambda db: audit.read(db, before, limit))

    async def audit_broken_at(self) -> int | None:
        return await self._run(audit.broken_at)

    async def replace_all(self, adapters: Iterable[Adapter], keys: Iterable[ApiKey], **values: Any) -> None:
        """These adapters and keys and no others, and ``values``."""
        rows, pairs = list(adapters), [(key, json.dumps(value)) for key, value in values.items()]
        held = list(keys)

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM versions")
            db.execute("DELETE FROM adapters")
            db.execute("DELETE FROM keys")
            write_keys(db, held)
            write_adapters(db, rows, [], [])
            db.executemany("INSERT OR REPLACE INTO meta VALUES (?, ?)", pairs)

        await self._run(work)

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()


def read_registry(db: sqlite3.Connection) -> Registry:
    adapters = db.execute("SELECT name, record FROM adapters ORDER BY id").fetchall()
    return from_rows(adapters, db.execute("SELECT name, record FROM versions").fetchall())


def read_keys(db: sqlite3.Connection) -> list[ApiKey]:
    return [api_keys.from_json(json.loads(record)) for (record,) in db.execute("SELECT record FROM keys")]


def write_keys(db: sqlite3.Connection, keys: Iterable[ApiKey]) -> None:
    for key in keys:
        db.execute("INSERT OR REPLACE INTO keys VALUES (?, ?)", (key.name, json.dumps(key.to_json())))
        if key.scope is Scope.INFERENCE:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('keyed', 'true')")


def read_values(db: sqlite3.Connection) -> dict[str, Any]:
    """All that was `put`."""
    return {key: json.loads(value) for key, value in db.execute("SELECT key, value FROM meta")}


def write_adapters(db: sqlite3.Connection, changed: list[Adapter], names: list[str], gone: list[str]) -> None:
    """Forgets all versions of ``names``, and the adapters ``gone``, then writes ``changed``."""
    db.executemany("DELETE FROM versions WHERE name = ?", [(name,) for name in names])
    db.executemany("DELETE FROM adapters WHERE name = ?", [(name,) for name in gone])
    for adapter in changed:
        own, versions = to_rows(adapter)
        db.execute(
            "INSERT INTO adapters (name, record) VALUES (?, ?) "
            "ON CONFLICT (name) DO UPDATE SET record = excluded.record",
            (adapter.name, json.dumps(own)),
        )
        db.executemany(
            "INSERT INTO versions VALUES (?, ?, ?)", [(adapter.name, n, json.dumps(v)) for n, v in versions]
        )


def _connect(path: Path) -> sqlite3.Connection:
    try:
        return _open(path)
    except (sqlite3.DatabaseError, OSError) as error:
        raise UsageError(f"{path}: the state cannot be opened ({error}); it is left as it is") from None


def _open(path: Path) -> sqlite3.Connection:
    state_file.refuse_links(path)
    if not os.path.lexists(path):
        _create(path)
    version = _version(path)
    connection = sqlite3.connect(path, check_same_thread=False)
    try:
        if version is None:
            version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0 and not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
            schema.create(connection)
        elif version != SCHEMA:
            _migrate(path, connection, version)
        connection.execute("PRAGMA journal_mode = WAL")  # not before: somebody else's file is not ours to change
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    except BaseException:
        connection.close()
        raise
    return connection


def _version(path: Path) -> int | None:
    """As `state_file.check`; None for a file that SQLite has to roll back first."""
    with contextlib.suppress(OSError):
        if state_file.companion(path, "-journal").stat().st_size:
            return None
    return state_file.check(path)


def _create(path: Path) -> None:
    """Made beside it and renamed: under its name it is a state, never an empty file."""
    log = state_file.companion(path, "-wal")
    if log.exists():
        raise UsageError(f"{path} is gone, but its {log.name} is there: put it back, or move that away as well")
    if not path.name or not path.parent.is_dir():
        raise UsageError(f"{path}: no such folder")
    for left in path.parent.glob(f"{path.name}{_NEW}*"):
        left.unlink(missing_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}{_NEW}", dir=path.parent)
    os.close(descriptor)
    try:
        with contextlib.closing(sqlite3.connect(name)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            schema.create(db)
        Path(name).rename(path)
    except BaseException:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(name + suffix).unlink(missing_ok=True)
        raise
    files.sync_folder(path.parent)


def _migrate(path: Path, connection: sqlite3.Connection, version: int) -> None:
    """Raises UsageError where it fails: the file is as it was then."""
    kept = path.with_name(f"{path.name}.v{version}")
    try:
        with files.replacing(kept) as file, contextlib.closing(sqlite3.connect(":memory:")) as memory:
            connection.backup(memory)
            file.write(memory.serialize())
        schema.migrate(connection, version)
    except (sqlite3.Error, OSError, KeyError) as error:
        raise UsageError(
            f"{path}: state of version {version} could not be brought to version {SCHEMA} ({error}); "
            "it is left as it is"
        ) from None
