"""What clients ask for: carried out, stored before anything follows from it, answered once the balancer knows. What
cannot be stored is taken back and refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from cluster.deployment.revisions import Revisions, SettingsInForce
from cluster.events import EventLog
from cluster.fleet.intent import Checkpoint, Intent
from cluster.storage.store import NotSaved
from cluster.storage.write_behind import WriteBehind
from config.paths import StateDir
from worker.drivers.base import Drivers

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _PendingCommand:
    """A command that was carried out and is not answered yet. ``before``: what was wanted before it, if it changed
    that; ``release`` tells its events."""

    done: asyncio.Future[Any]
    result: Any
    before: tuple[Checkpoint, Revisions] | None
    release: Callable[[], None]

    def answer(self, error: Exception | None = None) -> None:
        if self.done.done():
            return  # whoever asked has gone away
        if error is None:
            self.done.set_result(self.result)
        else:
            self.done.set_exception(error)


class Transactions:
    """For the task that owns the state alone. ``state`` has the folder of the run files, which ``drivers`` make room
    for."""

    def __init__(
        self, intent: Intent, revisions: Revisions, settings: SettingsInForce, events: EventLog, store: WriteBehind,
        state: StateDir, drivers: Drivers,
    ) -> None:
        self._intent, self._revisions, self._settings = intent, revisions, settings
        self._events, self._store, self._state, self._drivers = events, store, state, drivers
        self._pending: list[_PendingCommand] = []
        self._saved: dict[str, Any] = {}

    @property
    def durable(self) -> dict[str, Any]:
        """For the store."""
        return self._intent.durable() | self._revisions.durable()

    @property
    def unanswered(self) -> bool:
        return bool(self._pending)

    def known(self) -> None:
        """What is wanted now is stored."""
        self._saved = self.durable

    def carry_out(self, change: Callable[[], _T], done: asyncio.Future[_T]) -> None:
        """Does it, and remembers how to take it back; ``done`` is for whoever asked."""
        durable, before = self.durable, (self._intent.checkpoint(), self._revisions.copy())
        with self._events.held() as release:
            try:
                result = change()
            except Exception as error:
                self._go_back(*before)
                if not done.done():
                    done.set_exception(error)
                return
        changed = self.durable != durable
        if not changed:
            release()
        self._pending.append(_PendingCommand(done, result, before if changed else None, release))

    def tell(self, done: asyncio.Future[None]) -> None:
        """Nothing is asked for but to hear when all that was asked before shows."""
        self._pending.append(_PendingCommand(done, None, None, lambda: None))

    async def keep(self) -> None:
        """Stores what is wanted, or refuses what was asked for."""
        durable = self.durable
        if durable == self._saved:
            return
        changes = [pending for pending in self._pending if pending.before is not None]
        try:
            self.take_room()
            await self._store.put(**durable)
        except OSError as error:
            self._store.trouble(f"{self._state.runs}: {error.strerror}")
            self._refuse(changes, NotSaved(f"nothing was changed, as it could not be saved: {error}"))
        except NotSaved as error:
            self._refuse(changes, error)
        else:
            for pending in changes:
                pending.release()
        self.known()

    def answer(self) -> None:
        """What was asked for shows now."""
        pending, self._pending = self._pending, []
        for one in pending:
            one.answer()

    def take_room(self) -> None:
        """For the run file of every worker that is wanted: it has to be found, also on a disk that is full when it
        starts. Raises OSError where there is none."""
        for group in self._intent.desired.groups.values():
            for path in map(self._state.run, group.wanted):
                if path.exists():
                    continue
                try:
                    self._drivers[group.driver].prepare(path)
                except OSError:
                    path.unlink(missing_ok=True)
                    raise

    def _go_back(self, wanted: Checkpoint, revisions: Revisions) -> None:
        self._intent.go_back(wanted)
        self._revisions.go_back(revisions)
        self._settings.hold()

    def _refuse(self, changes: list[_PendingCommand], error: Exception) -> None:
        if changes and changes[0].before is not None:
            self._go_back(*changes[0].before)
        for pending in changes:
            self._pending.remove(pending)
            pending.answer(error)
        self._store.value(**self.durable)  # what is wanted without anybody's asking
