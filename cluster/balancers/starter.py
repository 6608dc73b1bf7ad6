"""Starts balancer processes: the standby becomes the next one where it may, else one is started anew."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable

from cluster.balancers.feed import Feed
from cluster.balancers.listener import Listeners
from cluster.balancers.process import BalancerProcess, Group
from cluster.balancers.standby import Spare, Standby
from cluster.events import Emit
from cluster.storage.store import Records
from config.link import Phase
from config.paths import StateDir
from config.topology import BalancerConfig


class Starter:
    """Of all slots of ``group``. What it starts is among the processes of ``feed`` from then on; ``changed`` is called
    when there is a standby, or none any more; with ``keeps_standby`` there is one from the first that serves on.
    ``order`` says which process is the newest."""

    def __init__(
        self, state: StateDir, store: Records, group: Group, feed: Feed, emit: Emit,
        changed: Callable[[], None], keeps_standby: bool,
    ) -> None:
        self._state, self._store, self._group, self._feed, self._processes = state, store, group, feed, feed.processes
        self.listeners = Listeners()
        self.standby = Standby(state, store, lambda: self.listeners.descriptors, self._starts, emit, changed)
        self.order = 0
        self.keeps_standby = keeps_standby
        self._beginning = 0

    @property
    def ready(self) -> bool:
        """Whether a standby has imported everything and waits for a place."""
        return self.standby.pid is not None

    async def rest(self, seconds: float) -> None:
        """Returns after so long, or as soon as a standby is ready."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.standby.ready()

    async def begin(self, slot: str, config: BalancerConfig, warm: bool) -> BalancerProcess:
        """Starts a process; if ``warm``, the standby becomes it where there is one. Raises OSError, sqlite3.Error."""
        self._beginning += 1
        try:
            if warm and (spare := self.standby.take()) is not None:
                try:
                    return await self._begin(spare.name, slot, config, spare)
                except OSError:
                    pass  # it has just died as well
            return await self._begin(f"lb-{await self._store.next_number('balancers')}", slot, config, None)
        finally:
            self._beginning -= 1
            self.standby.look()

    def serving(self) -> None:
        """One takes connections."""
        self.standby.failures = 0
        self.standby.look()
        self.look()

    def look(self) -> None:
        """Whether a standby is to be kept may have changed."""
        if not self.keeps_standby:
            self.standby.keep_none()
        elif any(process.phase is Phase.SERVING for process in self._processes):
            self.standby.start()

    def _starts(self) -> bool:
        """Whether one that is to take connections is on its way."""
        return self._beginning > 0 or any(process.phase is Phase.STARTING for process in self._processes)

    async def _begin(self, name: str, slot: str, config: BalancerConfig, spare: Spare | None) -> BalancerProcess:
        self.order += 1
        process = BalancerProcess(
            name, slot, self.order, self._group, self._state, self._store, settings=config.digest()
        )
        start = {**self.listeners.told(config).to_json(), **self._feed.start()}
        self._processes.append(process)  # first: what is stopped now ends it too
        try:
            await process.begin(start, self.listeners.descriptors, spare)
        except (OSError, sqlite3.Error):
            self._processes.remove(process)
            with contextlib.suppress(OSError, sqlite3.Error):
                await process.stop(0.0)
            raise
        process.follow()
        return process
