"""The balancer's end of the link: takes backend sets and snapshots, reports what is in flight, hands the listening
socket over to whichever supervisor asks for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from config.aio import Tasks
from config.link import LINE_LIMIT, Phase, bind_unix, descriptor_path, encode, messages
from config.topology import BackendSet
from lb.control.joined_attempts import JoinedAttempts
from lb.records.loss_report import LossReport
from lb.routing.notifier import Notifier
from lb.routing.pool import Pool
from lb.telemetry.cooperative import cooperatively
from lb.telemetry.exposition import gathered

log = logging.getLogger(__name__)

#: Seconds between two reports while nothing drains.
_REPORT_EVERY = 1.0

#: Seconds between two requests for the same adapter.
_WANT_EVERY = 0.2

#: Seconds between two reports while there are balancers on other machines that are told of them; and for how long
#: (s) a word of theirs says that there are.
_SHARED_REPORT_EVERY, _SHARED_S = 0.1, 2.0

#: Seconds between two looks at what still runs on a draining backend.
_DRAIN_LOOK = 0.02

#: Seconds between two looks at what became of requests on a lost worker.
_OUTCOME_LOOK = 0.02

#: Seconds that whoever listens may take to hear the last word.
_HEARD_S = 1.0


class Link:
    """``uses()`` tells which adapters were used since it was last asked, ``work()`` how much (tokens); ``series()``
    makes this process' own series, in pieces. ``losses`` knows what became of requests on lost workers, ``events``
    takes what happened, ``why`` answers another balancer's question how requests were routed, ``keys`` takes the API
    keys, ``refusals()`` tells whom it is time to tell of as refused, ``limits()`` how it is with limits that other
    machines share, None where none do, ``demand()`` what waits: ``queued``, ``unread`` and ``models`` of a report;
    ``loads`` takes what is in flight on other machines, by backend, and ``attempts`` which requests these are.
    ``snapshot`` is the supervisor's last word; ``alive`` whether there is a supervisor; ``retired`` is set when it has
    said that another takes the connections: a request may go on for ``drain_timeout`` seconds.
    One method more than a class should have: they are the two directions of one connection."""

    def __init__(
        self, pool: Pool, listeners: Sequence[socket.socket], path: Path,
        uses: Callable[[], dict[str, float]] = dict, series: Callable[[], Iterable[str]] = tuple,
        losses: LossReport | None = None, events: Callable[[Iterable[Mapping[str, Any]]], None] = lambda events: None,
        why: Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]] | None = None,
        keys: Callable[[Mapping[str, Any]], None] = lambda message: None,
        refusals: Callable[[], list[dict[str, Any]]] = list,
        limits: Callable[[], dict[str, Any] | None] = lambda: None, work: Callable[[], dict[str, float]] = dict,
        demand: Callable[[], dict[str, Any]] = dict, loads: Callable[[Mapping[str, int]], None] = lambda loads: None,
        attempts: JoinedAttempts | None = None,
    ) -> None:
        self._pool, self._listeners, self._path = pool, listeners, path
        self._uses, self._work, self._series = uses, work, series
        self._losses, self._events, self._why, self._keys = losses or LossReport(), events, why, keys
        self._refusals, self._limits, self._demand, self._loads = refusals, limits, demand, loads
        self._attempts, self._shared_at = attempts, -math.inf
        self._absent = False
        self._wanted: dict[tuple[str, str], float] = {}
        #: Of whoever is connected and has not turned out to be another balancer: supervisors.
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks = Tasks()
        self._server: asyncio.Server | None = None
        self._descriptors: socket.socket | None = None
        self._snapshot: dict[str, Any] = {}
        self._snapshot_at: float | None = None
        self.phase = Phase.STARTING
        self.retired, self.drain_timeout = asyncio.Event(), 0.0
        self._spoken = asyncio.Event()
        self.fresh = Notifier()
        self._applied, self._gone = Notifier(), Notifier()
        self._has_parted = False

    @property
    def alive(self) -> bool:
        return bool(self._writers) and not self._absent

    @property
    def snapshot(self) -> dict[str, Any]:
        return self._snapshot

    @snapshot.setter
    def snapshot(self, said: dict[str, Any]) -> None:
        self._snapshot, self._snapshot_at = said, time.monotonic()

    @property
    def age(self) -> float | None:
        """Seconds since the supervisor's last word; None before the first."""
        return None if self._snapshot_at is None else time.monotonic() - self._snapshot_at

    async def start(self) -> None:
        """Raises OSError."""
        loop = asyncio.get_running_loop()
        self._descriptors = bind_unix(descriptor_path(self._path))
        loop.add_reader(self._descriptors, self._hand_over)
        self._server = await asyncio.start_unix_server(self._serve, sock=bind_unix(self._path), limit=LINE_LIMIT)
        self._tasks.start(self._keep_reporting(), "report to the supervisor")
        self._tasks.start(self._report_losses(), "tell what became of requests")

    async def close(self) -> None:
        self.report()  # the last word: whoever hears it knows that nothing was lost
        if self._descriptors is not None:
            asyncio.get_running_loop().remove_reader(self._descriptors)
            self._descriptors.close()
        if self._server is not None:
            self._server.close()
        await self._tasks.close()
        await self._part()
        self._path.unlink(missing_ok=True)
        descriptor_path(self._path).unlink(missing_ok=True)

    async def _part(self) -> None:
        """Returns when all that was said is heard: whoever listens ends its side then. A socket that is closed while
        something lies in it unread resets the connection, and what was said last is lost with that, unread as well."""
        self._has_parted = True
        for writer in self._writers:
            with contextlib.suppress(OSError, RuntimeError):  # it is gone
                writer.write_eof()
        try:
            async with asyncio.timeout(_HEARD_S):
                while self._writers:
                    await self._gone.next()
        except TimeoutError:
            pass
        for writer in self._writers:
            writer.close()

    async def first_word(self, timeout: float) -> None:
        """Returns when a supervisor has said what there is, or ``timeout`` seconds are over."""
        try:
            async with asyncio.timeout(timeout):
                await self._spoken.wait()
        except TimeoutError:
            pass

    def enter(self, phase: Phase) -> None:
        """Tells the supervisor."""
        self.phase = phase
        self._say({"type": "phase", "phase": phase, "requests": sum(self._pool.in_flight().values())})

    async def has_snapshot(self, sequence: tuple[int, int], timeout: float) -> None:
        """Returns when a snapshot at least that new has come, or ``timeout`` seconds are over."""
        try:
            async with asyncio.timeout(timeout):
                while tuple(self.snapshot.get("sequence", (0, 0))) < sequence:
                    await self.fresh.next()
        except TimeoutError:
            pass

    def want(self, adapter: str) -> None:
        """Tells the supervisor that somebody asks for an adapter that no worker holds."""
        self._want("adapter", adapter)

    def want_model(self, name: str) -> None:
        """The same of a model that is not up."""
        self._want("model", name)

    def _want(self, kind: str, name: str) -> None:
        now = asyncio.get_running_loop().time()
        if now - self._wanted.get((kind, name), -math.inf) >= _WANT_EVERY:
            self._wanted[kind, name] = now
            self._say({"type": "want", kind: name})

    def report(self) -> None:
        """What is in flight now."""
        if not self._writers:
            return
        work = self._work()
        self._say({
            "type": "report", "version": list(self._pool.version), "in_flight": self._pool.in_flight(),
            "waiting": self._pool.waiting(), "used": self._uses(),
            **({"work": work} if work else {}), **self._demand(),
        })  # fmt: skip
        if refusals := self._refusals():
            self._say({"type": "refused", "refusals": refusals})
        if (limits := self._limits()) is not None:
            self._say({"type": "limits", "limits": limits})

    def _hand_over(self) -> None:
        """Over a plain socket: no transport of asyncio or uvloop carries descriptors."""
        assert self._descriptors is not None
        try:
            channel, _ = self._descriptors.accept()
        except OSError:
            return
        with channel:
            try:
                socket.send_fds(channel, [b"L"], [each.fileno() for each in self._listeners])
            except OSError as error:
                log.warning("the listening sockets were not handed over: %s", error)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        writer.write(encode({"type": "hello", "pid": os.getpid(), "phase": self.phase, "changes": True}))
        try:
            async for message in messages(reader):
                if message["type"] == "set":
                    self._pool.apply(BackendSet.from_json(message["set"]))
                    self.report()
                    self._applied.notify()
                elif message["type"] == "change":
                    self._change(message, writer)
                elif message["type"] == "keys":
                    self._keys(message)
                elif message["type"] == "snapshot":
                    self.snapshot = message["snapshot"]
                    self._spoken.set()
                    self.fresh.notify()
                elif message["type"] == "retire":
                    self.drain_timeout = float(message["timeout"])
                    self.retired.set()
                elif message["type"] == "events":
                    self._events(message["events"])
                elif message["type"] == "loads":
                    self._shared_at = time.monotonic()
                    self._loads(message["loads"])
                elif message["type"] == "attempts" and self._attempts is not None:
                    with contextlib.suppress(ValueError, KeyError, TypeError):
                        self._attempts.hear(message)
                elif message["type"] == "supervisor":
                    self._absent = not message["there"]
                elif message["type"] == "metrics":
                    self._writers.discard(writer)  # another balancer: no supervisor asks for them
                    pieces = await cooperatively(gathered(self._series()))
                    writer.write(encode({"type": "metrics", "text": "".join(pieces)}))
                elif message["type"] == "why" and self._why is not None:
                    self._writers.discard(writer)  # another balancer too
                    writer.write(encode(await self._why(message)))
        finally:
            self._writers.discard(writer)
            self._gone.notify()
            writer.close()

    def _change(self, message: Mapping[str, Any], writer: asyncio.StreamWriter) -> None:
        new, (epoch, revision) = BackendSet.from_json(message["set"]), message["base"]
        if self._pool.change((epoch, revision), new, message["gone"]):
            self.report()
            self._applied.notify()
        else:
            writer.write(encode({"type": "resend"}))

    async def _keep_reporting(self) -> None:
        """What is in flight: soon while something drains, now and then otherwise."""
        waited, before = 0.0, ""
        while True:
            pause = _DRAIN_LOOK if self._draining() else _SHARED_REPORT_EVERY if self._is_shared() else _REPORT_EVERY
            try:
                async with asyncio.timeout(pause):
                    await self._applied.next()  # a drain may begin with it
            except TimeoutError:
                pass
            waited += pause
            now = str(self._pool.in_flight())
            if now != before or waited >= _REPORT_EVERY:
                before, waited = now, 0.0
                self.report()
            if self._attempts is not None and self._is_shared() and (told := self._attempts.due()) is not None:
                self._say(told)

    def _is_shared(self) -> bool:
        return time.monotonic() - self._shared_at < _SHARED_S

    async def _report_losses(self) -> None:
        """Of workers that a backend set said are lost."""
        while True:
            await self._applied.next()
            while self._losses.pending:
                for message in self._losses.due(asyncio.get_running_loop().time()):
                    self._say(message)
                await asyncio.sleep(_OUTCOME_LOOK)

    def _say(self, message: Mapping[str, Any]) -> None:
        for writer in self._writers:
            if not (self._has_parted or writer.is_closing()):
                writer.write(encode(message))

    def _draining(self) -> bool:
        return any(b.spec.state == "draining" for b in self._pool.backends.values())

