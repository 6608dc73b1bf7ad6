"""What clients ask for: carried out, stored before anything follows from it, answered once the balancer knows. What
cannot be stored is taken back and refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from cluster.deployment.revisions import Revisions
from cluster.fleet.cordons import Cordons
from cluster.fleet.states import InstanceDesired
from cluster.storage.store import NotSaved

if TYPE_CHECKING:
    from cluster.supervisor.loop import Supervisor

_T = TypeVar("_T")

@dataclass(frozen=True, slots=True)
class _Wanted:
    instances: Mapping[str, InstanceDesired]
    spares: Mapping[str, InstanceDesired]
    weights: dict[str, int]
    strategy: str
    cordons: Cordons
    revisions: Revisions


@dataclass(frozen=True, slots=True)
class _Asked:
    """A command that was carried out and is not answered yet. ``before``: what was wanted before it, if it changed
    that; ``release`` tells its events."""

    done: asyncio.Future[Any]
    result: Any
    before: _Wanted | None
    release: Callable[[], None]

    def answer(self, error: Exception | None = None) -> None:
        if self.done.done():
            return  # whoever asked has gone away
        if error is None:
            self.done.set_result(self.result)
        else:
            self.done.set_exception(error)


class Transactions:
    """For the task that owns the state alone."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._asked: list[_Asked] = []
        self._saved: dict[str, Any] = {}

    @property
    def durable(self) -> dict[str, Any]:
        """For the store."""
        supervisor = self._supervisor
        wanted = {"desired": supervisor.fleet.durable(), "strategy": supervisor.strategy}
        return wanted | supervisor.revisions.durable()

    @property
    def unanswered(self) -> bool:
        return bool(self._asked)

    def known(self) -> None:
        """What is wanted now is stored."""
        self._saved = self.durable

    def carry_out(self, change: Callable[[], _T], done: asyncio.Future[_T]) -> None:
        """Does it, and remembers how to take it back; ``done`` is for whoever asked."""
        supervisor = self._supervisor
        durable, before = self.durable, self._wanted()
        with supervisor.events.held() as release:
            try:
                result = change()
            except Exception as error:
                self._want(before)
                if not done.done():
                    done.set_exception(error)
                return
        changed = self.durable != durable
        if not changed:
            release()
        self._asked.append(_Asked(done, result, before if changed else None, release))

    async def keep(self) -> None:
        """Stores what is wanted, or refuses what was asked for."""
        durable = self.durable
        if durable == self._saved:
            return
        saver, changes = self._supervisor.write_behind, [asked for asked in self._asked if asked.before is not None]
        try:
            self.take_room()
            await saver.put(**durable)
        except OSError as error:
            saver.trouble(f"{self._supervisor.state.runs}: {error.strerror}")
            self._refuse(changes, NotSaved(f"nothing was changed, as it could not be saved: {error}"))
        except NotSaved as error:
            self._refuse(changes, error)
        else:
            for asked in changes:
                asked.release()
        self.known()

    def answer(self) -> None:
        """What was asked for shows now."""
        asked, self._asked = self._asked, []
        for one in asked:
            one.answer()

    def take_room(self) -> None:
        """For the run file of every worker that is wanted: it has to be found, also on a disk that is full when it
        starts. Raises OSError where there is none."""
        desired = self._supervisor.fleet.desired
        for name in (*desired.instances, *desired.spares):
            path = self._supervisor.state.runs / name
            if not path.exists():
                try:
                    self._supervisor.driver.prepare(path)
                except OSError:
                    path.unlink(missing_ok=True)
                    raise

    def _wanted(self) -> _Wanted:
        supervisor, fleet = self._supervisor, self._supervisor.fleet
        return _Wanted(
            fleet.desired.instances, fleet.desired.spares, dict(fleet.weights), supervisor.strategy,
            fleet.cordons.copy(), supervisor.revisions.copy(),
        )

    def _want(self, wanted: _Wanted) -> None:
        supervisor, fleet = self._supervisor, self._supervisor.fleet
        fleet.weights, supervisor.strategy = wanted.weights, wanted.strategy
        fleet.cordons, supervisor.revisions = wanted.cordons, wanted.revisions
        fleet.desired = replace(fleet.desired, instances=wanted.instances, spares=wanted.spares)
        supervisor.hold()

    def _refuse(self, changes: list[_Asked], error: Exception) -> None:
        if changes and changes[0].before is not None:
            self._want(changes[0].before)
        for asked in changes:
            self._asked.remove(asked)
            asked.answer(error)
        self._supervisor.write_behind.value(**self.durable)  # what is wanted without anybody's asking
