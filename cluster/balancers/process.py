"""One balancer process: started, adopted, talked to over its link, told that another takes its place, ended.

It is in a session of its own, so that Ctrl-C reaches the supervisor alone, and outlives a supervisor that is killed.
Whether another is started when it ends is not its business.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import sqlite3
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cluster.balancers.link_writer import LinkWriter
from cluster.balancers.standby import Spare
from cluster.storage.store import Records
from config.aio import Tasks, patience
from config.disk.files import rewrite
from config.link import LINE_LIMIT, Phase, descriptor_path, encode, grpc_path, messages
from config.paths import StateDir, short_socket_path
from config.settings import inherited_environment
from worker.drivers import run_file as run_files
from worker.drivers.process import Process, spawn

log = logging.getLogger(__name__)

#: Bytes of the file that one is started with.
_START_SIZE = 16 * 1024

#: A run file that is nobody's yet.
_RESERVE = "lb-reserve"

#: How much longer (s) than its requests may take one that was replaced may live: a client's connection may be idle for
#: 75 s of it.
_HUNG_S = 90.0


def set_room_aside(state: StateDir) -> None:
    """So that a balancer can be started on a full disk; as soon as there is room for it."""
    with contextlib.suppress(OSError):
        run_files.prepare(state.runs / _RESERVE, {})


def give_room_back(state: StateDir) -> None:
    """None is to be started any more."""
    (state.runs / _RESERVE).unlink(missing_ok=True)


#: How long (s) after its end what it had said before may take to be read.
_LAST_WORD_S = 0.5


class Greeter(Protocol):
    """`cluster.balancers.feed.Feed`."""

    def greeting(self) -> list[bytes]:
        """What a process that has just been connected to is told, encoded."""

    def whole(self) -> bytes:
        """The latest backend set, encoded."""


class Group(Protocol):
    """What one process needs of the group that it belongs to."""

    @property
    def feed(self) -> Greeter: ...

    def on_message(self, process: BalancerProcess, message: Mapping[str, Any]) -> None: ...

    def ended(self, process: BalancerProcess, status: int | None) -> None:
        """Called once, the moment it ends; ``status`` as `Process.watch` gives it."""


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(eq=False)
class BalancerProcess:
    """``name`` is that of its record and its run file; ``slot`` whose place it takes: ``balancer``, ``balancer-1`` …,
    also the name of its log; ``order`` says which of a slot is the newest.

    ``engaged``: it has been told what there is, so requests may be in flight in it, as ``in_flight`` says (by backend,
    as of the backend set ``version``). ``waiting``: how many of these wait for the first byte of their answers, and the
    bytes of the largest body among them. ``queued``: requests that wait for room on a worker, ``unread``: s of one
    worker's time that prompts take which are not read yet. ``limits_kept``: why it keeps to limits by itself that other
    machines should share; empty if it need not. ``settings``: the digest of those it was started with. ``since``: when
    it began to take connections (s, of the loop's clock); None if it does not yet, or did so before this supervisor
    came.
    ``retiring``: another takes its place, a request in it may take so long (s). ``hears_changes``: it is told what is
    new of a backend set in place of the whole; one of an earlier version is not.

    More attributes than a class should have: a third of them is its latest report."""

    name: str
    slot: str
    order: int
    group: Group
    state: StateDir
    store: Records
    handle: Process | None = None
    link: Path | None = None
    phase: Phase = Phase.STARTING
    engaged: bool = False
    version: tuple[int, int] = (0, 0)
    in_flight: Mapping[str, int] = field(default_factory=dict)
    waiting: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    queued: int = 0
    unread: float = 0.0
    models: dict[str, list[float]] = field(default_factory=dict)
    limits_kept: str = ""
    settings: str = ""
    since: float | None = None
    retiring: float | None = None
    hears_changes: bool = False
    successor: int | None = None
    adopted: bool = False
    over: bool = False
    asked: bool = False
    _unsaved: bool = False
    _link_writer: LinkWriter | None = None
    #: There is nothing more to read of what it has said.
    _heard_out: asyncio.Event = field(default_factory=_set_event)
    _tasks: Tasks = field(default_factory=Tasks)

    @property
    def pid(self) -> int | None:
        return self.handle.pid if self.handle else None

    @property
    def requests(self) -> int:
        """In flight in it, by its last report."""
        return sum(self.in_flight.values())

    # how it comes to be

    async def begin(self, start: Mapping[str, Any], inherited: tuple[int, ...], spare: Spare | None) -> None:
        """Starts it with ``start`` and the descriptors ``inherited``, or makes ``spare`` it. Raises OSError,
        sqlite3.Error."""
        self.link = self.state.link(self.name)
        what = {**start, "link": str(self.link), "log": str(self.state.log(self.slot))}
        if spare is not None:
            self.handle = spare.handle
            await self._try_to_save()  # before it is told: whoever comes after us has to find it
            await asyncio.to_thread(spare.tell, what)
            return
        run_file = self.state.runs / self.name
        self._take_room(run_file)
        await self._save()
        file = self.state.root / f"{self.slot}.json"
        try:
            rewrite(file, json.dumps(what).encode(), _START_SIZE)
        except OSError:  # no room for more than there was before: what there is it hears as soon as it can be talked to
            rewrite(file, json.dumps({**what, "set": None, "snapshot": None}).encode(), _START_SIZE)
        self.handle = spawn(
            (sys.executable, "-m", "lb", str(file)),
            env={**inherited_environment(), "PYTHONSAFEPATH": "1"}, cwd=self.state.work,
            log=self.state.log(self.slot), run_file=run_file, keep=inherited,
        )
        await self._save()

    def follow(self) -> None:
        """Talks to it from now on, and tells the group of its end."""
        self._tasks.start(self._follow(), f"follow {self.name}")
        if self.retiring is not None:
            self._tasks.start(self._end_in_time(self.retiring), f"end {self.name} in time")

    # what it is told

    def send(self, message: bytes, kind: str = "", latest: Callable[[], bytes] | None = None) -> None:
        """As `LinkWriter.send`; nothing while it is not connected to."""
        if self._link_writer is not None:
            self._link_writer.send(message, kind, latest)

    async def retire(self, timeout: float, successor: BalancerProcess | None) -> None:
        """Another takes the connections, or nobody: it has ``timeout`` seconds for each request."""
        if self.retiring is not None or self.over:
            return
        self.retiring, self.successor = timeout, successor.pid if successor is not None else None
        await self._try_to_save()
        self.send(self._retirement())
        self._tasks.start(self._end_in_time(timeout), f"end {self.name} in time")

    def kill(self) -> None:
        """At once; the group hears of its end."""
        if self.handle is not None:
            self.handle.signal(signal.SIGKILL)

    async def stop(self, grace: float) -> None:
        """Ends it: asked first, killed after ``grace`` seconds."""
        self.asked = True
        handle, loop = self.handle, asyncio.get_running_loop()
        if handle is not None:
            handle.signal(signal.SIGTERM)
            deadline = loop.time() + grace
            while not self.over and loop.time() < deadline:
                await asyncio.sleep(0.02)
        await self._tasks.close()
        while handle is not None and len(await asyncio.to_thread(handle.kill_tree)):
            await asyncio.sleep(0.02)
        self.over = True
        await self.forget()

    async def close(self) -> None:
        """Leaves it running and lets go of it."""
        await self._tasks.close()

    # inside

    async def _end_in_time(self, timeout: float) -> None:
        """Longer than a request, a connection left idle after it, and the last request on that can take: it hangs."""
        await asyncio.sleep(2 * timeout + _HUNG_S)
        self.kill()

    def _retirement(self) -> bytes:
        return encode({"type": "retire", "timeout": self.retiring})

    def _take_room(self, run_file: Path) -> None:
        """For writing itself down, on a full disk what was set aside for that. Raises OSError."""
        reserve = self.state.runs / _RESERVE
        try:
            run_files.prepare(run_file, {"record": self._record()})
        except OSError:
            run_file.unlink(missing_ok=True)
            reserve.rename(run_file)
            run_files.prepare(run_file, {"record": self._record()})
        set_room_aside(self.state)

    def _record(self) -> dict[str, Any]:
        return {
            "process": self.handle.identity if self.handle else None, "slot": self.slot, "order": self.order,
            "link": str(self.link), "run_file": str(self.state.runs / self.name), "retiring": self.retiring,
            "settings": self.settings,
        }  # fmt: skip

    async def _save(self) -> None:
        await self.store.save_process(self.name, self._record())

    async def _try_to_save(self) -> None:
        """A disk that is full keeps nobody from taking connections; it is tried again with each report."""
        try:
            await self._save()
            self._unsaved = False
        except sqlite3.Error as error:
            if not self._unsaved:
                log.warning("%s: what has become of it is not written down: %s", self.name, error)
            self._unsaved = True

    async def forget(self) -> None:
        """Nothing of it is left."""
        if self.link is not None:  # it may have had no time to clear up
            self.link.unlink(missing_ok=True)
            descriptor_path(self.link).unlink(missing_ok=True)
            grpc_path(self.link).unlink(missing_ok=True)
        (self.state.runs / self.name).unlink(missing_ok=True)
        await self.store.forget_process(self.name)

    async def _follow(self) -> None:
        assert self.handle is not None
        exited: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self.handle.watch(lambda status: None if exited.done() else exited.set_result(status))
        talking = self._tasks.start(self._talk(), f"link of {self.name}")
        status = await exited
        try:
            async with patience(_LAST_WORD_S):
                await self._heard_out.wait()
        except TimeoutError:
            pass
        talking.cancel()
        self.over, self.engaged, self.version = True, False, (0, 0)
        self.group.ended(self, status)
        self.in_flight = {}
        await asyncio.to_thread(self.handle.kill_tree)
        try:
            await self.forget()
        except (OSError, sqlite3.Error) as error:
            log.warning("%s: what is left of it is not cleared up: %s", self.name, error)

    async def _talk(self) -> None:
        """Connects as often as it takes while the process lives."""
        assert self.link is not None
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(short_socket_path(self.link), limit=LINE_LIMIT)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            self._link_writer, self.engaged = LinkWriter(writer), True
            sending = self._tasks.start(self._link_writer.run(), f"tell {self.name}")
            self._heard_out.clear()
            for word in self.group.feed.greeting():
                self.send(word)
            if self.retiring is not None:
                self.send(self._retirement())
            try:
                async for message in messages(reader):
                    self._hear(message)
            finally:
                self._link_writer = None
                sending.cancel()
                self._heard_out.set()
                writer.close()

    def _hear(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "report":
            epoch, revision = message["version"]
            self.version, self.in_flight = (epoch, revision), message["in_flight"]
            self.waiting = message.get("waiting", {})
            self.queued, self.unread = message.get("queued", 0), message.get("unread", 0.0)
            self.models = message.get("models", {})
            if self._unsaved:
                self._tasks.start(self._try_to_save(), f"write {self.name} down")
        elif message["type"] in ("hello", "phase"):
            self.phase = Phase(message.get("phase", Phase.SERVING))
            self.hears_changes = self.hears_changes or bool(message.get("changes"))
            if self.phase is Phase.SERVING and self.since is None and not self.adopted:
                self.since = asyncio.get_running_loop().time()
        elif message["type"] == "resend":
            self.send(self.group.feed.whole(), "set")
            return
        self.group.on_message(self, message)


def in_words(status: int | None) -> str:
    """How a process ended, short enough for a label."""
    if status is None:
        return "unknown"
    return f"signal {-status}" if status < 0 else f"status {status}"
