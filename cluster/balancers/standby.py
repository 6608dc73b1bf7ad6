"""The standby: a balancer process that has imported everything and waits to be told whose place to take.

It waits on one end of a socket pair whose other end is the supervisor's, so it ends by itself when that one dies. The
listening sockets it has inherited, and does not touch.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import sqlite3
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.events import Emit
from cluster.fleet.restart import Backoff
from cluster.storage.store import Records
from config.aio import Tasks
from config.paths import StateDir
from config.settings import inherited_environment
from worker.drivers.proc import ProcessId
from worker.drivers.process import Process, spawn

log = logging.getLogger(__name__)

#: How long (s) after the cluster has begun to serve the first one is started: whatever else is starting comes first.
_LATER_S = 1.0

#: One that waited this long (s) before it ended does not count against the next.
_LIVED_S = 60.0

#: How long (s) it may take to hear what it is to be: it may be importing still.
_TELL_S = 5.0


@dataclass(frozen=True, slots=True)
class Spare:
    """One that is taken: ``name`` is that of its record and its run file."""

    name: str
    handle: Process
    channel: socket.socket

    def tell(self, start: Mapping[str, Any]) -> None:
        """What to be. Blocks. Raises OSError if it is gone, or does not listen."""
        with self.channel:
            self.channel.settimeout(_TELL_S)
            self.channel.sendall(json.dumps(start).encode() + b"\n")


class Standby:
    """``inherited`` is asked for the descriptors that it inherits, ``busy`` whether a balancer is being started, which
    comes first: `look` says that this may have changed. ``changed`` is called when there is one, or none any more.
    Another is started as soon as the one before is taken or has ended; later, with a backoff, where they end again and
    again (``failures`` in a row), or where those whose place they take never come to serve."""

    def __init__(
        self, state: StateDir, store: Records, inherited: Callable[[], tuple[int, ...]],
        busy: Callable[[], bool], emit: Emit, changed: Callable[[], None],
    ) -> None:
        self._state, self._store, self._inherited, self._busy = state, store, inherited, busy
        self._emit, self._changed = emit, changed
        self.failures = 0
        self._backoff = Backoff()
        self._spare: Spare | None = None
        self._ready = asyncio.Event()
        self._news = asyncio.Event()
        #: What has to be ended by us, by name; None for one that is being started.
        self._ours: dict[str, Spare | None] = {}
        self._gone = asyncio.Event()  # of the present one: it has been taken, or has ended
        self._tasks = Tasks()
        self._keeping: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of one that has imported everything."""
        return self._spare.handle.pid if self._spare is not None and self._ready.is_set() else None

    def start(self) -> None:
        """Keeps one from now on."""
        if self._keeping is None:
            self._keeping = self._tasks.start(self._keep(), "keep a standby")

    def keep_none(self) -> None:
        """From now on, until `start`; ends the one there is."""
        if self._keeping is not None:
            self._keeping.cancel()
            self._keeping = None
            self._let_go()
            for name in self._ours:
                self._tasks.start(self._end(name), "end a standby")

    async def ready(self) -> None:
        """Returns as soon as there is one that has imported everything."""
        await self._ready.wait()

    def look(self) -> None:
        """Whether a balancer is being started may have changed."""
        self._news.set()

    def take(self) -> Spare | None:
        """Hands over the one there is; another is started. It may not have imported everything yet."""
        spare = self._let_go()
        if spare is not None:
            spare.handle.unwatch()
            del self._ours[spare.name]
            self._gone.set()
        return spare

    def renew(self) -> None:
        """Another in its place, that imports what is installed now."""
        spare = self._let_go()
        if spare is not None:
            self._gone.set()
            self._tasks.start(self._end(spare.name), "end a standby")

    async def stop(self) -> None:
        self._let_go()
        await self._tasks.close()
        for name in list(self._ours):
            await self._end(name)

    async def close(self) -> None:
        """Lets go of it, and it ends."""
        self._let_go()
        await self._tasks.close()
        for spare in self._ours.values():
            if spare is not None:
                spare.channel.close()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(_LATER_S)
        while True:
            while self._busy():
                self._news.clear()
                await self._news.wait()
            began = loop.time()
            try:
                ended = await self._one()
            except (OSError, sqlite3.Error) as error:
                ended = str(error)
            if ended is not None:
                self.failures = 1 if loop.time() - began > _LIVED_S else self.failures + 1
                self._emit("standby", f"ended ({ended}); another is started", kind="standby.ended")
            await asyncio.sleep(self._backoff.delay(self.failures - 1, lambda: 0.0))

    async def _one(self) -> str | None:
        """Starts one, and returns when it is taken (None), or how it ended. Raises OSError, sqlite3.Error."""
        name = f"lb-{await self._store.next_number('balancers')}"
        run_file = self._state.runs / name
        self._ours[name] = None
        record: dict[str, Any] = {"standby": True, "process": None, "run_file": str(run_file)}
        await self._store.save_process(name, record)
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                handle = spawn(
                    (sys.executable, "-m", "lb", "--standby", str(theirs.fileno())),
                    env={**inherited_environment(), "PYTHONSAFEPATH": "1"}, cwd=self._state.work,
                    log=self._state.log("standby"), run_file=run_file, keep=(*self._inherited(), theirs.fileno()),
                )
        except OSError:
            ours.close()
            raise
        self._ours[name] = spare = Spare(name, handle, ours)
        ours.setblocking(False)
        await self._store.save_process(name, {**record, "process": handle.identity})
        self._spare = spare
        self._gone = gone = asyncio.Event()
        status: list[int | None] = []

        def exited(code: int | None) -> None:
            status.append(code)
            gone.set()

        handle.watch(exited)
        reading = self._tasks.start(self._hear(spare), "hear the standby")
        await gone.wait()
        reading.cancel()
        if self._let_go() is None:
            return None
        await self._end(name)
        return f"pid {handle.pid}, status {status[0]}"

    async def _hear(self, spare: Spare) -> None:
        with contextlib.suppress(OSError):
            if await asyncio.get_running_loop().sock_recv(spare.channel, 16) and spare is self._spare:
                self._ready.set()
                self._changed()

    def _let_go(self) -> Spare | None:
        spare, self._spare = self._spare, None
        if spare is not None:
            asyncio.get_running_loop().remove_reader(spare.channel)  # of `_hear`, which may still wait for its word
        if self._ready.is_set():
            self._ready.clear()
            self._changed()
        return spare

    async def _end(self, name: str) -> None:
        spare = self._ours.get(name)
        if spare is not None:
            spare.channel.close()
            while len(await asyncio.to_thread(spare.handle.kill_tree)):
                await asyncio.sleep(0.02)
        await _forget(self._state, self._store, name)
        self._ours.pop(name, None)


async def end_left(state: StateDir, store: Records) -> None:
    """Ends the standby of a supervisor that is gone: it ends by itself, but nobody should have to wait for it."""
    for name, record in (await store.processes()).items():
        if record.get("standby"):
            process = Process(ProcessId(**record["process"])) if record["process"] else None
            while process is not None and len(await asyncio.to_thread(process.kill_tree)):
                await asyncio.sleep(0.02)
            await _forget(state, store, name)


async def _forget(state: StateDir, store: Records, name: str) -> None:
    (state.runs / name).unlink(missing_ok=True)
    await store.forget_process(name)
