"""The tables of the state file by version, and the steps from each version to the next."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from cluster.storage import audit

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE processes (id TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE adapters (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, record TEXT NOT NULL);
CREATE TABLE versions (name TEXT NOT NULL, number INTEGER NOT NULL, record TEXT NOT NULL, PRIMARY KEY (name, number))
    WITHOUT ROWID;
"""

_EVENTS = "CREATE TABLE events (id INTEGER PRIMARY KEY, record TEXT NOT NULL)"
_KEYS = "CREATE TABLE keys (name TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID"


def _audit(db: sqlite3.Connection) -> None:
    """4: who changed what."""
    for statement in audit.TABLE.strip().split("\n"):
        db.execute(statement)


def _events(db: sqlite3.Connection) -> None:
    """2: what happened outlives the supervisor."""
    db.execute(_EVENTS)


def _keys(db: sqlite3.Connection) -> None:
    """3: API keys, of their secrets only hashes."""
    db.execute(_KEYS)


#: From which version each step leads to the next. A step never changes once it was released.
STEPS: dict[int, Callable[[sqlite3.Connection], None]] = {1: _events, 2: _keys, 3: _audit}

SCHEMA = max(STEPS) + 1


def create(db: sqlite3.Connection) -> None:
    """Makes an empty database one of this version, in one transaction."""
    db.executescript(f"BEGIN; {_TABLES} {_EVENTS}; {_KEYS}; {audit.TABLE} PRAGMA user_version = {SCHEMA}; COMMIT;")


def migrate(db: sqlite3.Connection, version: int) -> None:
    """From ``version`` to `SCHEMA` in one transaction: all steps or, after an exception, none."""
    db.execute("BEGIN IMMEDIATE")
    try:
        for step in range(version, SCHEMA):
            STEPS[step](db)
        db.execute(f"PRAGMA user_version = {SCHEMA}")
        db.execute("COMMIT")
    except BaseException:
        db.execute("ROLLBACK")
        raise
