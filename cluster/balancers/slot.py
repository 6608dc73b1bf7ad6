"""Sees to it that somebody takes connections: one balancer process, for a while two when it is replaced.

The newest process that takes connections is the one; those before it finish what they have. When none is left, another
is started: at once, and later only where one after the other dies before it has served and no standby is ready.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from typing import Any, Protocol

from cluster.balancers.process import BalancerProcess, in_words
from cluster.events import Emit
from cluster.fleet.restart import Backoff
from config.aio import Tasks
from config.link import Phase
from config.topology import BalancerConfig

#: How long (s) the one before may take to say that it takes no more connections.
_RETIRED_S = 5.0

#: How long (s) a new one may take until it takes connections.
_START_S = 60.0


class ReplacementFailed(Exception):
    """The new balancer does not serve; the one before goes on."""


class SlotGroup(Protocol):
    """What a slot needs of the keeper."""

    drain_timeout: float

    @property
    def emit(self) -> Emit: ...

    def lost(self, requests: int, how: str) -> None:
        """It was not asked to end; ``requests`` were in flight in it."""


class SlotStarter(Protocol):
    """`cluster.balancers.starter.Starter`."""

    @property
    def ready(self) -> bool: ...

    async def rest(self, seconds: float) -> None: ...

    async def begin(self, slot: str, config: BalancerConfig, warm: bool) -> BalancerProcess: ...


class BalancerSlot:
    """``name``: ``balancer``, ``balancer-1`` … ``line``: those that take connections or are going to, oldest first."""

    def __init__(self, name: str, config: BalancerConfig, group: SlotGroup, starter: SlotStarter) -> None:
        self.name, self.config, self._group, self._starter = name, config, group, starter
        self.line: list[BalancerProcess] = []
        self.restarts = 0
        #: Ends in a row before they had served, failed starts included.
        self._early = 0
        self._backoff = Backoff(first=0.2, most=5.0)
        self._begun = False
        self._news = asyncio.Event()
        self._starting = asyncio.Lock()
        self._tasks = Tasks()

    @property
    def current(self) -> BalancerProcess | None:
        """The one that takes connections, as far as is known; None between two."""
        serving = [process for process in self.line if process.phase is not Phase.STARTING] or self.line
        return serving[-1] if serving else None

    def start(self) -> None:
        """Keeps one from now on."""
        self._begun = bool(self.line)
        for process in self.line:
            self._watch_start(process)
        self._tasks.start(self._keep(), f"keep {self.name}")

    async def replace(self, config: BalancerConfig) -> None:
        """Another in its place, that is started with ``config``; returns when it takes the connections and the one
        before does not any more. Raises ReplacementFailed: nothing has changed."""
        try:
            async with self._starting:
                older = list(self.line)
                new = await self._begin(config, warm=False)
        except (OSError, sqlite3.Error) as error:
            raise ReplacementFailed(f"the new one cannot be started: {error}") from None
        await self._until(lambda: new.over or new.phase is not Phase.STARTING)
        if new.phase is Phase.STARTING:
            raise ReplacementFailed(f"the new one (pid {new.pid}) ended before it took connections; see its log")
        self.config = config
        try:
            async with asyncio.timeout(_RETIRED_S):
                await self._until(lambda: all(one.over or one.phase is Phase.DRAINING for one in older))
        except TimeoutError:
            pass  # it hangs; it is killed in time

    async def close(self) -> None:
        """Starts none any more."""
        await self._tasks.close()

    # what happens

    def phase_of(self, process: BalancerProcess) -> None:
        """It has said what it does."""
        if process.phase is Phase.SERVING and process in self.line:
            at = self.line.index(process)
            older, self.line = self.line[:at], self.line[at:]
            for one in older:
                self._tasks.start(one.retire(self._group.drain_timeout, process), f"retire {one.name}")
        self._news.set()

    def ended(self, process: BalancerProcess, status: int | None) -> None:
        if process not in self.line:
            return
        self.line.remove(process)
        self._news.set()
        if process.asked:
            return
        how = in_words(status)
        served = process.phase is not Phase.STARTING
        if served:
            self._group.lost(process.requests, how)
        what = f"pid {process.pid} ended ({how})"
        lost: dict[str, Any] = {"pid": process.pid, "how": how, "requests": process.requests}
        if served:
            what += f" with {process.requests} requests in flight, which are lost" if process.requests else ""
        if self.line:  # its successor was being started, or came to nothing
            if served:
                then = f"pid {self.line[-1].pid} takes its place"
                self._group.emit(self.name, f"{what}; {then}", kind="balancer.lost", data=lost)
            return
        self._early = 0 if served else self._early + 1
        delay = self._delay()
        then = f"restart {f'in {delay:.1f} s' if delay else 'at once'}"
        lost["delay"] = round(delay, 3)
        self._group.emit(self.name, f"{what}; {then}", kind="balancer.restarted", data=lost)

    # inside

    async def _keep(self) -> None:
        while True:
            await self._until(lambda: not self.line)
            if self._begun and (delay := self._delay()):
                await self._starter.rest(delay)
            async with self._starting:
                if self.line:
                    continue  # a replacement has come meanwhile
                if self._begun:
                    self.restarts += 1
                try:
                    await self._begin(self.config, warm=self._begun)
                except (OSError, sqlite3.Error) as error:
                    self._early += 1
                    self._begun = True
                    again = f"again in {self._delay():.1f} s"
                    self._group.emit(self.name, f"cannot be started: {error}; {again}", kind="balancer.failed")

    def _delay(self) -> float:
        return 0.0 if self._starter.ready else self._backoff.delay(self._early - 1, lambda: 0.0)

    async def _begin(self, config: BalancerConfig, warm: bool) -> BalancerProcess:
        process = await self._starter.begin(self.name, config, warm)
        self._begun = True
        if not process.over:
            self.line.append(process)
        self._news.set()
        self._watch_start(process)
        return process

    def _watch_start(self, process: BalancerProcess) -> None:
        if process.phase is Phase.STARTING:
            self._tasks.start(self._in_time(process), f"wait for {process.name}")

    async def _in_time(self, process: BalancerProcess) -> None:
        """One that does not come to take connections is of no use."""
        await asyncio.sleep(_START_S)
        if process.phase is Phase.STARTING and not process.over:
            process.kill()

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._news.clear()
            await self._news.wait()
