"""What each key has taken of each model on each day (UTC): a ledger that all balancer processes write, each adding up
what it has counted for half a second. What a process that is killed has not written by then is lost, and nothing else:
SQLite keeps what is committed, and waits for whoever else writes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.aio import Tasks
from config.disk import private
from config.identity.api_keys import Budget, Period
from lb.protocol.usage import TokenUsage

if TYPE_CHECKING:
    import sqlite3

log = logging.getLogger(__name__)

#: Seconds for which it is added up; and before another try where it could not be written.
_EVERY, _AGAIN = 0.5, 5.0

_DAY_S = 86_400

#: Days that are kept.
_DAYS = 800

#: By what it can be asked for.
GROUPS = ("key", "model", "day")
COUNTS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")

_TABLE = (
    "CREATE TABLE IF NOT EXISTS usage (day TEXT, key TEXT, model TEXT, requests INTEGER, prompt_tokens INTEGER, "
    "cached_tokens INTEGER, completion_tokens INTEGER, PRIMARY KEY (day, key, model)) WITHOUT ROWID"
)
_ADD = (
    "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in COUNTS)
)  # fmt: skip
_SPENT = (
    "SELECT key, SUM(prompt_tokens + completion_tokens), SUM(iif(day = ?, prompt_tokens + completion_tokens, 0)) "
    "FROM usage WHERE day >= ? GROUP BY key"
)

_NONE_SPENT = (0, 0)

#: Day, key, model.
_Row = tuple[str, str, str]


class UsageLedger:
    """``wall()``: s since the epoch."""

    def __init__(self, path: Path, wall: Callable[[], float]) -> None:
        self._path, self._wall, self._tasks = path, wall, Tasks()
        self._pending: dict[_Row, list[int]] = {}
        #: By key and model, what of the day that is now is not in there yet; and no more tokens of any key than that.
        self._new: dict[tuple[str, str], list[int]] = {}
        self._most_new = 0
        self._writing = self._failed = False
        #: Tokens by key: in the month and on the day of the date beside them, as far as it was written; and since.
        self._written: tuple[str, Mapping[str, tuple[int, int]]] = ("", {})
        self._unwritten: Counter[str] = Counter()
        self._day, self._begins, self._ends = "", -math.inf, -math.inf

    async def start(self) -> None:
        """Reads what was spent before, for those who have a budget."""
        if self._path.exists():
            await self._write()

    async def close(self) -> None:
        """Writes what there is."""
        await self._tasks.close()
        if self._pending or self._new:
            await self._write()

    def add(self, key: str, model: str, usage: TokenUsage, told: TokenUsage | None = None) -> None:
        """What one request has taken so far, or in all; ``told``: what of it was added before."""
        if not self._begins <= (now := self._wall()) < self._ends:
            self._turn(now)
        counts = self._new.get((key, model))
        if counts is None:
            counts = self._new[key, model] = [0] * len(COUNTS)
        prompt, cached, completion = usage
        if told is None:
            counts[0] += 1
        else:
            prompt, cached, completion = prompt - told.prompt, cached - told.cached, completion - told.completion
        counts[1] += prompt
        counts[2] += cached
        counts[3] += completion
        self._most_new += prompt + completion
        if not self._writing:
            self._writing = True
            self._tasks.start(self._write_soon(), "write the ledger of usage")

    def _collect(self) -> None:
        """What is new is to be written."""
        new, self._new, self._most_new = self._new, {}, 0
        for (key, model), counts in new.items():
            self._add_to_pending((self._day, key, model), counts)
            self._unwritten[key] += counts[1] + counts[3]

    def _add_to_pending(self, row: _Row, counts: Sequence[int]) -> None:
        before = self._pending.get(row)
        self._pending[row] = list(counts) if before is None else list(map(add, before, counts))

    def has_spent(self, key: str, budget: Budget) -> bool:
        """All of it, as far as is known here."""
        month, day = self._written[1].get(key, _NONE_SPENT)
        most = (month if budget.period is Period.MONTH else day) + self._unwritten.get(key, 0) + self._most_new
        return most >= budget.tokens and self.spent(key, budget.period) >= budget.tokens

    def spent(self, key: str, period: Period) -> int:
        """Tokens in the period that is now, through all balancers: through others up to the last second or so."""
        today, (written_on, by_key) = self._today(), self._written
        self._collect()
        month, day = by_key.get(key, (0, 0))
        if period is Period.MONTH:
            written = month if written_on[:7] == today[:7] else 0
        else:
            written = day if written_on == today else 0
        return written + self._unwritten[key]

    async def query(self, by: Sequence[str], begin: str, end: str) -> list[dict[str, Any]]:
        """Sums by some of `GROUPS` over the days (ISO 8601) from ``begin`` to ``end``, both included; through this
        balancer up to now. Raises OSError."""
        if self._pending or self._new:
            await self._write()
        return await asyncio.to_thread(self._read, by, begin, end) if self._path.exists() else []

    def _today(self) -> str:
        if not self._begins <= (now := self._wall()) < self._ends:
            self._turn(now)
        return self._day

    def _turn(self, now: float) -> None:
        """Another day has begun."""
        self._collect()
        self._begins = now // _DAY_S * _DAY_S
        self._ends, self._day = self._begins + _DAY_S, time.strftime("%Y-%m-%d", time.gmtime(now))

    async def _write_soon(self) -> None:
        while self._pending or self._new:
            await asyncio.sleep(_AGAIN if self._failed else _EVERY)
            await self._write()
        self._writing = False

    async def _write(self) -> None:
        today = self._today()
        self._collect()
        rows, self._pending, counted = self._pending, {}, Counter(self._unwritten)
        try:
            self._written = today, await asyncio.to_thread(self._store, rows, today)
        except OSError as error:
            if not self._failed:
                log.warning("%s: %s; usage is kept in memory until it can be written", self._path, error)
            self._failed = True
            for row, counts in rows.items():
                self._add_to_pending(row, counts)
            return
        self._failed = False
        self._unwritten -= counted

    # in a thread

    def _store(self, rows: Mapping[_Row, Sequence[int]], today: str) -> dict[str, tuple[int, int]]:
        with self._open() as database:
            oldest = date.fromisoformat(today) - timedelta(_DAYS)
            database.execute("DELETE FROM usage WHERE day < ?", (oldest.isoformat(),))
            database.executemany(_ADD, [(*row, *counts) for row, counts in rows.items()])
            found = database.execute(_SPENT, (today, today[:8])).fetchall()
        return {key: (month, day) for key, month, day in found}

    def _read(self, by: Sequence[str], begin: str, end: str) -> list[dict[str, Any]]:
        groups, sums = ", ".join(by), ", ".join(f"SUM({name})" for name in COUNTS)
        with self._open() as database:
            found = database.execute(
                f"SELECT {groups}, {sums} FROM usage WHERE day BETWEEN ? AND ? GROUP BY {groups} ORDER BY {groups}",
                (begin, end),
            ).fetchall()
        return [dict(zip((*by, *COUNTS), row, strict=True)) for row in found]

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """One transaction. Raises OSError."""
        import sqlite3  # without keys nothing here needs it

        os.close(private.descriptor(self._path, os.O_RDWR | os.O_CREAT))
        try:
            with contextlib.closing(sqlite3.connect(self._path, timeout=5.0)) as database:
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = NORMAL")
                with database:
                    database.execute(_TABLE)
                    yield database
        except sqlite3.Error as error:
            raise OSError(str(error)) from None
