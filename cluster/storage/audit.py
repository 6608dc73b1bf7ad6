"""The audit: rows that are only ever added, each sealed with a hash over itself and the seal before. Whoever changes or
takes out one row would have to make anew all seals after it, and the last one may be known elsewhere."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

#: The table, which refuses to forget.
TABLE = """
CREATE TABLE audit (id INTEGER PRIMARY KEY, record TEXT NOT NULL, seal TEXT NOT NULL);
CREATE TRIGGER audit_keeps BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit only grows'); END;
CREATE TRIGGER audit_stays BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit only grows'); END;
"""

#: Before the first row.
_FIRST = "0" * 64


class AuditRow(NamedTuple):
    """``record``: JSON, as it was sealed. ``seal``: 64 hexadecimal digits."""

    id: int
    record: str
    seal: str


def sealed(before: str, record: str) -> str:
    """The seal of ``record`` behind the row with the seal ``before``: SHA-256."""
    return hashlib.sha256(f"{before}\n{record}".encode()).hexdigest()


def append(db: sqlite3.Connection, records: Iterable[str]) -> None:
    row = db.execute("SELECT seal FROM audit ORDER BY id DESC LIMIT 1").fetchone()
    seal = row[0] if row else _FIRST
    for record in records:
        seal = sealed(seal, record)
        db.execute("INSERT INTO audit (record, seal) VALUES (?, ?)", (record, seal))


def read(db: sqlite3.Connection, before: int | None, limit: int) -> list[AuditRow]:
    """The newest first; ``before``: of those with a lower id."""
    where, given = ("WHERE id < ?", (before, limit)) if before is not None else ("", (limit,))
    rows = db.execute(f"SELECT id, record, seal FROM audit {where} ORDER BY id DESC LIMIT ?", given)
    return [AuditRow(*row) for row in rows]


def broken_at(db: sqlite3.Connection) -> int | None:
    """The first id at which the chain does not hold: its row was changed, or one before it is gone; None: it holds."""
    before, last = _FIRST, 0
    for row in map(AuditRow._make, db.execute("SELECT id, record, seal FROM audit ORDER BY id")):
        if row.id != last + 1 or row.seal != sealed(before, row.record):
            return row.id
        before, last = row.seal, row.id
    return None
