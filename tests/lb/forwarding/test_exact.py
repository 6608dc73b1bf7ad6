"""However a request ends, nothing of it is left: not in the counts, not in open files, not in memory, not at a worker.

The balancer is a process of its own, so that its open files and its memory are its own; workers and clients are
protocols in this one, which cost little. Every request says in its body what its worker is to do.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import socket
import struct
import sys
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest

from config.link import encode
from config.topology import BackendSet, BalancerConfig
from lbfakes import backend_set, card, listening, spec

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[3]

CLIENTS = 50
MIB = 1024 * 1024
MAX_BODY = 2 * MIB

#: Seconds after which a request counts as lost.
PATIENCE_S = 20.0

#: Seconds until idle connections to workers have been closed: they live 3 s.
SETTLED_S = 10.0

#: Seen between two measurements, 10,000 requests apart: 0.2 to 0.9 MiB more, and no more after some 60,000 requests: so
#: long what little is garbage in cycles (connections given up while they were being opened) waits for the collector. A
#: leak of 210 bytes a request is 2 MiB.
NOISE = 2 * MIB

#: Without this, what glibc keeps for later depends on how many large bodies happened to be there at the same time.
START_ENV = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}

_RESET = struct.pack("ii", 1, 0)
_KIND = re.compile(rb'"kind": "(\w+)", "n": (\d+)')
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
_LEVEL = re.compile(r"^clusterctl_(in_flight|model_in_flight|queued_requests)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)

#: What the balancer writes of an attempt that failed; it has nothing else to say.
_FAILED = re.compile(r"\S+ \S+ WARNING lb\.forwarding\.retry\.failover: request \S+ failed on instance_\w+: .+")


def reset(transport: asyncio.Transport) -> None:
    """Ends a connection with a TCP reset."""
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


async def until(condition: Callable[[], Any], what: str, seconds: float = SETTLED_S) -> None:
    """Polls; fails after ``seconds``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {seconds:g} s"
        await asyncio.sleep(0.005)


# what is asked and what is answered


def asked(kind: str, n: int, model: str = "base", size: int = 0) -> bytes:
    """A body that tells the worker what to do. ``size`` in bytes, if it is to be larger than it has to be."""
    start = b'{"model": "%b", "kind": "%b", "n": %d, "prompt": "' % (model.encode(), kind.encode(), n)
    return start + b"p" * max(n % 300, size - len(start) - 2) + b'"}'


def request(body: bytes, *fields: str, path: str = "/v1/completions", length: int | None = None) -> bytes:
    """``length``: the one that is announced, if it is not the body's."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *fields]
    lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def in_chunks(*pieces: bytes) -> bytes:
    """A request whose body comes in chunks; the last one is missing."""
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked"
    return head + b"\r\n\r\n" + b"".join(chunk(piece) for piece in pieces)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def small_answer(n: int) -> bytes:
    return b'{"n": %d, "text": "%b"}' % (n, b"t" * (n % 700))


def events(n: int, count: int) -> list[bytes]:
    return [*(b'data: {"n": %d, "event": %d}\n\n' % (n, number) for number in range(count)), b"data: [DONE]\n\n"]


def event_count(n: int) -> int:
    return 2 + n % 5


class Chunks:
    """Takes a chunked body apart that arrives in a buffer, bit by bit. ``at``: how far it has come."""

    def __init__(self, at: int) -> None:
        self.at, self.ended = at, False
        self.parts: list[bytes] = []

    def read(self, buffer: bytearray) -> bool:
        """Whether the body has ended."""
        while not self.ended:
            line = buffer.find(b"\r\n", self.at)
            if line < 0:
                return False
            size = int(buffer[self.at : line], 16)
            end = line + 2 + size + 2
            if len(buffer) < end:
                return False
            assert buffer[end - 2 : end] == b"\r\n"
            self.parts.append(bytes(buffer[line + 2 : end - 2]))
            self.at, self.ended = end, size == 0
        return True


# workers


class Workers:
    """What all workers know together. ``open``: requests of which a byte has come and whose answer is not complete.
    ``dead_port``: of one that refuses connections, 0 for none."""

    def __init__(self) -> None:
        self.open = 0
        self.sides: set[WorkerSide] = set()
        self.running: dict[int, WorkerSide] = {}
        self.ports: list[int] = []
        self.dead_port = 0
        self._seen: set[int] = set()
        self._arrivals: dict[int, asyncio.Future[None]] = {}

    def arrival(self, n: int) -> asyncio.Future[None]:
        """Done when a worker has read what it is to do for request ``n``."""
        future = self._arrivals[n] = asyncio.get_running_loop().create_future()
        return future

    def arrived(self, n: int, side: WorkerSide) -> None:
        self.running[n] = side
        if (future := self._arrivals.pop(n, None)) is not None and not future.done():
            future.set_result(None)

    def first(self, n: int) -> bool:
        """Whether this request is seen for the first time."""
        if n in self._seen:
            return False
        self._seen.add(n)
        return True


_OK = b"HTTP/1.1 200 OK\r\nServer: fake\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_EVENTS = (
    b"HTTP/1.1 200 OK\r\nServer: fake\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
FLOOD_EVENT = b"data: " + b"x" * 4000 + b"\n\n"
FLOOD_BATCH = chunk(FLOOD_EVENT) * 16


class WorkerSide(asyncio.Protocol):
    """A worker's end of one connection."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._start = -1  # of the body
        self._length: int | None = 0
        self._chunks: Chunks | None = None
        self._timer: asyncio.TimerHandle | asyncio.Handle | None = None
        self._known = False
        self._kind, self.n = "", -1
        self._flood = 0
        self.busy = self.paused = False
        self.sent = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._workers.sides.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._done()
        self._workers.sides.discard(self)

    def eof_received(self) -> None:
        self._done()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        if self.busy and self._flood:
            self._pour()

    def data_received(self, data: bytes) -> None:
        if not self.busy:
            self.busy = True
            self._workers.open += 1
        buffer = self._buffer
        buffer += data
        if self._start < 0:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self._start = end + 4
            length = _LENGTH.search(buffer, 0, end + 2)
            self._chunks = Chunks(self._start) if _CHUNKED.search(buffer, 0, end + 2) else None
            self._length = int(length[1]) if length else 0
        if not self._known and (match := _KIND.search(buffer, self._start, self._start + 300)):
            self._known, self._kind, self.n = True, match[1].decode(), int(match[2])
            self._workers.arrived(self.n, self)
            if self._kind == "takes_nothing":
                self.transport.pause_reading()
        if self._chunks is not None:
            if not self._chunks.read(buffer):
                return
            body = b"".join(self._chunks.parts)
        else:
            assert self._length is not None
            if len(buffer) < self._start + self._length:
                return
            body = bytes(buffer[self._start : self._start + self._length])
        if self._known:
            getattr(self, f"_{self._kind}")(body)
        else:
            self._write(_OK % (0, b""))  # a question of the balancer's own
            self._done()

    def _done(self) -> None:
        """The request is over."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.busy:
            self.busy = False
            self._workers.open -= 1
            self._workers.running.pop(self.n, None)
        self._buffer, self._start, self._known, self._flood, self.n = bytearray(), -1, False, 0, -1

    def _write(self, data: bytes) -> None:
        self.sent += len(data)
        self.transport.write(data)

    # what a body may ask for

    def _small(self, _: bytes) -> None:
        answer = small_answer(self.n)
        self._write(_OK % (len(answer), answer))
        self._done()

    def _small_and_last(self, body: bytes) -> None:
        """The next request may meet a connection that is just being closed."""
        self._small(body)
        self.transport.close()

    def _stream(self, _: bytes) -> None:
        first, *others = events(self.n, event_count(self.n))
        self._write(_EVENTS + chunk(first))
        self._timer = self._loop.call_later(0.001, self._go_on, others)

    def _long_stream(self, _: bytes) -> None:
        first, *others = events(self.n, 50)
        self._write(_EVENTS + chunk(first))
        self._timer = self._loop.call_later(0.001, self._go_on, others)

    def _go_on(self, left: list[bytes]) -> None:
        if len(left) == 1:
            self._write(chunk(left[0]) + b"0\r\n\r\n")
            self._done()
        else:
            self._write(chunk(left[0]))
            self._timer = self._loop.call_later(0.001, self._go_on, left[1:])

    def _endless(self, _: bytes) -> None:
        self._write(_EVENTS)
        self._tick(0)

    _stalling = _endless

    def _tick(self, number: int) -> None:
        self._write(chunk(b'data: {"n": %d, "event": %d}\n\n' % (self.n, number)))
        if self._kind == "endless" or number < 9:
            self._timer = self._loop.call_later(0.01, self._tick, number + 1)

    def _flood_50(self, _: bytes) -> None:
        self._write(_EVENTS)
        self._flood = 50_000_000 // (16 * len(FLOOD_EVENT))
        self._pour()

    def _flood_1(self, _: bytes) -> None:
        self._write(_EVENTS)
        self._flood = 1_000_000 // (16 * len(FLOOD_EVENT))
        self._pour()

    def _pour(self) -> None:
        while not self.paused and self._flood > 0:
            self._write(FLOOD_BATCH)
            self._flood -= 1
        if not self._flood:
            self._write(b"0\r\n\r\n")
            self._done()

    def _nothing(self, _: bytes) -> None:
        """Thinks for ever."""

    _takes_nothing = _nothing

    def _upload(self, body: bytes) -> None:
        answer = upload_answer(self.n, body)
        self._write(_OK % (len(answer), answer))
        self._done()

    def _reset_once(self, body: bytes) -> None:
        if self._workers.first(self.n):
            reset(self.transport)
        else:
            self._small(body)

    def _close_once(self, body: bytes) -> None:
        if self._workers.first(self.n):
            self.transport.close()
        else:
            self._small(body)

    def _reset_always(self, _: bytes) -> None:
        reset(self.transport)

    def _fail_once(self, body: bytes) -> None:
        if self._workers.first(self.n):
            self._fail_always(body)
        else:
            self._small(body)

    def _fail_always(self, _: bytes) -> None:
        answer = small_answer(self.n)
        head = b"HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        self._write(head % len(answer) + answer)
        self._done()

    def _garbage_once(self, body: bytes) -> None:
        if self._workers.first(self.n):
            self._garbage_always(body)
        else:
            self._small(body)

    def _garbage_always(self, _: bytes) -> None:
        self._write((b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 2OO OK\r\n\r\n", b"\x00" * 100)[self.n % 3])

    def _broken_body_once(self, body: bytes) -> None:
        if self._workers.first(self.n):
            self._broken_body(body)
        else:
            self._small(body)

    def _broken_body(self, _: bytes) -> None:
        self._write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n0123456789")
        self.transport.close()


def upload_answer(n: int, body: bytes) -> bytes:
    return b'{"n": %d, "bytes": %d, "crc": %d}' % (n, len(body), zlib.crc32(body))


@asynccontextmanager
async def running_workers(count: int, receive_buffer: int | None = None) -> AsyncIterator[Workers]:
    workers, servers = Workers(), []
    loop = asyncio.get_running_loop()
    for _ in range(count):
        listener = listening()
        if receive_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        servers.append(await loop.create_server(lambda: WorkerSide(workers), sock=listener, backlog=1024))
        workers.ports.append(listener.getsockname()[1])
    try:
        yield workers
    finally:
        for server in servers:
            server.close()
        for side in list(workers.sides):
            side.transport.abort()


# the balancer


class Supervisor(asyncio.Protocol):
    """The link's other end: ``versions`` that the balancer has reported."""

    def __init__(self) -> None:
        self._line = b""
        self.versions: set[tuple[int, ...]] = set()

    def data_received(self, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["type"] == "report":
                self.versions.add(tuple(message["version"]))


@dataclass
class Running:
    """A balancer's process."""

    pid: int
    port: int
    log: Path

    def open_files(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def memory(self) -> int:
        """Bytes that are its own: anonymous pages, swapped ones included."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return sum(int(kib) for kib in re.findall(r"^(?:Anonymous|Swap): +(\d+) kB", text, re.MULTILINE)) * 1024

    async def levels(self) -> dict[str, float]:
        """The sum of each of its in-flight gauges."""
        wire = await connected(self.port)
        wire.write(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            answer = await wire.answer()
        assert answer.status == 200
        levels: dict[str, float] = {}
        for name, value in _LEVEL.findall(answer.body.decode()):
            levels[name] = levels.get(name, 0.0) + abs(float(value))
        assert len(levels) == 3, levels
        return levels

    async def nothing_is_in_flight(self, workers: Workers) -> None:
        """Fails where something still is after the deadline."""
        end = time.monotonic() + SETTLED_S
        while any((levels := await self.levels()).values()) or workers.open:
            assert time.monotonic() < end, f"{levels}, and {workers.open} open at the workers"
            await asyncio.sleep(0.05)


def given(workers: Workers) -> BackendSet:
    """All have ``base``, the first one ``large`` too, the others ``fickle``; ``lazy`` is registered, nobody has it."""
    specs = [
        spec(f"instance_{number}", port, models=("base", "fickle" if number else "large"))
        for number, port in enumerate(workers.ports)
    ]
    if workers.dead_port:
        specs.append(spec("instance_dead", workers.dead_port, models=("base",)))
    return backend_set(*specs, strategy="least_connections", registered=(card("lazy", "base"),))


@asynccontextmanager
async def running_balancer(folder: Path, workers: Workers, **settings: Any) -> AsyncIterator[Running]:
    """As the supervisor starts it. Ended by SIGTERM; its log must say nothing."""
    listener, link, log = listening(), folder / "lb.sock", folder / "lb.log"
    port = listener.getsockname()[1]
    config = BalancerConfig(
        **{"listen_fd": listener.fileno(), "state_dir": str(folder), "host": "127.0.0.1", "port": port,
           "queue_timeout": 5.0, "log_level": "warning", **settings}
    )  # fmt: skip
    start = folder / "lb.json"
    start.write_text(json.dumps({**config.to_json(), "link": str(link)}))
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "lb", str(start), pass_fds=[listener.fileno()], cwd=ROOT, stderr=output,
            env={**os.environ, **START_ENV},
        )  # fmt: skip
    listener.close()
    supervisor, transport, loop = Supervisor(), None, asyncio.get_running_loop()
    try:
        async with asyncio.timeout(PATIENCE_S):
            while transport is None:
                with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                    transport, _ = await loop.create_unix_connection(lambda: supervisor, str(link))
                await asyncio.sleep(0.01)
        transport.write(encode({"type": "set", "set": given(workers).to_json()}))
        await until(lambda: (1, 1) in supervisor.versions, "its knowing the workers")
        yield Running(process.pid, port, log)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
        unexpected = [line for line in log.read_text().splitlines() if not _FAILED.fullmatch(line)]
        assert unexpected == []
    finally:
        if transport is not None:
            transport.close()
        if process.returncode is None:
            process.kill()
            await process.wait()


# clients


@dataclass
class Answer:
    """``complete`` is false for one that broke off."""

    status: int
    head: bytes
    body: bytes
    complete: bool = True


class Wire(asyncio.Protocol):
    """A client's connection."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._more: asyncio.Future[None] | None = None
        self._start = -1  # of the body
        self._length: int | None = None
        self._chunks: Chunks | None = None
        self.ended = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.write: Callable[[bytes], None] = self.transport.write

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._wake()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._wake()

    @property
    def unread(self) -> bytes:
        return bytes(self._buffer)

    def leave(self) -> None:
        """What was written goes out, then the connection ends."""
        self.transport.close()

    def reset(self) -> None:
        reset(self.transport)

    async def some(self, wanted: bytes) -> None:
        """Until ``wanted`` has come. Raises EOFError."""
        while wanted not in self._buffer:
            await self._next()

    async def answer(self) -> Answer:
        """The next one. Raises EOFError where there is none."""
        while (answer := self._read()) is None:
            if self.ended and self._start >= 0:
                body = b"".join(self._chunks.parts) if self._chunks else bytes(self._buffer[self._start :])
                return self._take(body, len(self._buffer), complete=False)
            await self._next()
        return answer

    async def end(self) -> bytes:
        """What else comes until the balancer ends the connection."""
        while not self.ended:
            await self._next()
        return bytes(self._buffer)

    def _wake(self) -> None:
        more, self._more = self._more, None
        if more is not None and not more.done():
            more.set_result(None)

    async def _next(self) -> None:
        if self.ended:
            raise EOFError(bytes(self._buffer[:200]))
        self._more = asyncio.get_running_loop().create_future()
        await self._more

    def _read(self) -> Answer | None:
        buffer = self._buffer
        if self._start < 0:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return None
            self._start = end + 4
            length = _LENGTH.search(buffer, 0, end + 2)
            self._length = int(length[1]) if length else None
            self._chunks = Chunks(self._start) if length is None else None
        if self._chunks is not None:
            return self._take(b"".join(self._chunks.parts), self._chunks.at) if self._chunks.read(buffer) else None
        assert self._length is not None
        end = self._start + self._length
        return self._take(bytes(buffer[self._start : end]), end) if len(buffer) >= end else None

    def _take(self, body: bytes, end: int, *, complete: bool = True) -> Answer:
        head = bytes(self._buffer[: self._start])
        del self._buffer[:end]
        self._start = -1
        return Answer(int(head[9:12]), head, body, complete)


async def connected(port: int, receive_buffer: int | None = None) -> Wire:
    loop, sock = asyncio.get_running_loop(), socket.socket()
    if receive_buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.setblocking(False)
    await loop.sock_connect(sock, ("127.0.0.1", port))
    _, wire = await loop.create_connection(Wire, sock=sock)
    return wire


# the mix


@dataclass
class Slot:
    """One of the clients that work side by side; each keeps its connection as long as it may."""

    port: int
    workers: Workers
    chance: Random
    kept: Wire | None = None

    async def wire(self) -> Wire:
        if self.kept is None:
            self.kept = await connected(self.port)
        return self.kept

    def drop(self) -> None:
        wire, self.kept = self.kept, None
        if wire is not None:
            wire.leave()

    async def ask(self, data: bytes) -> Answer:
        """The answer; the connection goes on."""
        wire = await self.wire()
        wire.write(data)
        answer = await wire.answer()
        assert answer.complete and not wire.unread, (answer, wire.unread)
        return answer

    async def ask_last(self, data: bytes) -> Answer:
        """The answer, after which the balancer has to end the connection."""
        wire = await self.wire()
        wire.write(data)
        answer = await wire.answer()
        assert await wire.end() == b"" and answer.complete, answer
        assert b"connection: close" in answer.head.lower(), answer
        self.drop()
        return answer

    def leave(self) -> None:
        """In one way or the other."""
        wire, self.kept = self.kept, None
        assert wire is not None
        if self.chance.random() < 0.5:
            wire.leave()
        else:
            wire.reset()


Case = Callable[[Slot, int], Awaitable[None]]
CASES: dict[str, tuple[int, Case]] = {}


def case(share: int) -> Callable[[Case], Case]:
    """A kind of request, ``share`` in a thousand. It fails where the outcome is not what it has to be."""

    def add(function: Case) -> Case:
        CASES[function.__name__] = (share, function)
        return function

    return add


def is_answer(answer: Answer, body: bytes, status: int = 200) -> None:
    assert (answer.status, answer.body) == (status, body), answer


def is_error(answer: Answer, status: int) -> None:
    assert answer.status == status, answer
    assert json.loads(answer.body)["error"]["code"] == status, answer


@case(284)
async def small(slot: Slot, n: int) -> None:
    is_answer(await slot.ask(request(asked("small", n))), small_answer(n))


@case(40)
async def small_and_close(slot: Slot, n: int) -> None:
    is_answer(await slot.ask_last(request(asked("small", n), "Connection: close")), small_answer(n))


@case(60)
async def pipelined(slot: Slot, n: int) -> None:
    other = n + 1_000_000
    kinds = ("small", "stream") if n % 2 else ("stream", "small")
    wire = await slot.wire()
    wire.write(b"".join(request(asked(kind, number)) for kind, number in zip(kinds, (n, other), strict=True)))
    for kind, number in zip(kinds, (n, other), strict=True):
        wanted = small_answer(number) if kind == "small" else b"".join(events(number, event_count(number)))
        is_answer(await wire.answer(), wanted)


@case(150)
async def stream(slot: Slot, n: int) -> None:
    is_answer(await slot.ask(request(asked("stream", n))), b"".join(events(n, event_count(n))))


@case(90)
async def left_in_mid_answer(slot: Slot, n: int) -> None:
    wire = await slot.wire()
    wire.write(request(asked("endless", n)))
    await wire.some(b'"event": 0')
    slot.leave()


@case(3)
async def left_without_reading(slot: Slot, n: int) -> None:
    wire, arrival = await slot.wire(), slot.workers.arrival(n)
    wire.transport.pause_reading()
    wire.write(request(asked("flood_50", n)))
    await arrival
    side = slot.workers.running[n]
    await until(lambda: side.paused, "the worker's being paused")
    slot.leave()


@case(50)
async def left_before_the_answer(slot: Slot, n: int) -> None:
    wire, arrival = await slot.wire(), slot.workers.arrival(n)
    wire.write(request(asked("nothing", n)))
    await arrival
    slot.leave()


@case(40)
async def left_at_once(slot: Slot, n: int) -> None:
    (await slot.wire()).write(request(asked("endless", n)))
    slot.leave()


@case(20)
async def left_in_mid_upload(slot: Slot, n: int) -> None:
    (await slot.wire()).write(request(asked("nothing", n, size=40_000), length=100_000))
    slot.leave()


@case(4)
async def left_in_mid_large_upload(slot: Slot, n: int) -> None:
    wire, arrival = await slot.wire(), slot.workers.arrival(n)
    wire.write(request(asked("nothing", n, "large", size=MIB + 100_000), length=MAX_BODY))
    await arrival
    slot.leave()


@case(10)
async def uploaded(slot: Slot, n: int) -> None:
    body = asked("upload", n, "large", size=MIB + 100_000)
    data = in_chunks(*(body[at : at + 60_000] for at in range(0, len(body), 60_000)), b"") if n % 2 else request(body)
    is_answer(await slot.ask(data), upload_answer(n, body))


@case(20)
async def announced_too_large(slot: Slot, n: int) -> None:
    is_error(await slot.ask_last(request(asked("small", n), length=MAX_BODY + 1)), 413)


@case(3)
async def too_large(slot: Slot, n: int) -> None:
    is_error(await slot.ask_last(in_chunks(asked("small", n, "large", size=MAX_BODY), b"y")), 413)


_MALFORMED = (
    b"GET  /version HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /version HTTP/1.1\nHost: x\n\n",
    b"GET /version HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50,
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /version HTTP/1.1\r\nHost: x\r\nA b: c\r\n\r\n" + b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n" * 3,
)  # fmt: skip


@case(50)
async def malformed(slot: Slot, n: int) -> None:
    is_error(await slot.ask_last(_MALFORMED[n % len(_MALFORMED)]), 400)


@case(25)
async def no_route(slot: Slot, n: int) -> None:
    is_error(await slot.ask(request(asked("small", n), path="/v1/nothing")), 404)


@case(25)
async def no_model(slot: Slot, n: int) -> None:
    is_error(await slot.ask(request(asked("small", n, "nobody"))), 404)


@case(10)
async def models(slot: Slot, n: int) -> None:
    answer = await slot.ask(b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert {model["id"] for model in json.loads(answer.body)["data"]} == {"base", "large", "fickle", "lazy"}


@case(20)
async def reset_once(slot: Slot, n: int) -> None:
    is_answer(await slot.ask(request(asked("reset_once", n))), small_answer(n))


@case(10)
async def close_once(slot: Slot, n: int) -> None:
    is_answer(await slot.ask(request(asked("close_once", n))), small_answer(n))


@case(15)
async def small_and_last(slot: Slot, n: int) -> None:
    is_answer(await slot.ask(request(asked("small_and_last", n, "fickle"))), small_answer(n))


@case(10)
async def reset_always(slot: Slot, n: int) -> None:
    is_error(await slot.ask(request(asked("reset_always", n))), 502)


@case(20)
async def fail_once(slot: Slot, n: int) -> None:
    is_answer(await slot.ask(request(asked("fail_once", n))), small_answer(n))


@case(10)
async def fail_always(slot: Slot, n: int) -> None:
    is_answer(await slot.ask(request(asked("fail_always", n))), small_answer(n), 500)


@case(10)
async def garbage_once(slot: Slot, n: int) -> None:
    is_answer(await slot.ask(request(asked("garbage_once", n))), small_answer(n))


@case(10)
async def garbage_always(slot: Slot, n: int) -> None:
    is_error(await slot.ask(request(asked("garbage_always", n))), 502)


def _break(slot: Slot, n: int) -> None:
    """The worker's end goes, once what it wrote has arrived: a reset would overtake it."""
    transport = slot.workers.running[n].transport
    if slot.chance.random() < 0.5:
        transport.close()
    else:
        reset(transport)


@case(30)
async def broken_stream(slot: Slot, n: int) -> None:
    wire = await slot.wire()
    wire.write(request(asked("endless", n)))
    await wire.some(b'"event": 0')
    _break(slot, n)
    answer = await wire.answer()
    assert (answer.status, answer.complete) == (200, False), answer
    *whole, last, rest = answer.body.split(b"\n\n")
    whole = [event for event in whole if event]
    assert whole == [b'data: {"n": %d, "event": %d}' % (n, number) for number in range(len(whole))] and whole
    assert rest == b"" and json.loads(last.removeprefix(b"data: "))["error"]["code"] == 502, answer
    slot.drop()


@case(10)
async def broken_body(slot: Slot, n: int) -> None:
    is_error(await slot.ask(request(asked("broken_body", n))), 502)


@case(10)
async def broken_body_once(slot: Slot, n: int) -> None:
    is_answer(await slot.ask(request(asked("broken_body_once", n))), small_answer(n))


@case(5)
async def waited_in_vain(slot: Slot, n: int) -> None:
    answer = await slot.ask(request(asked("small", n, "lazy")))
    is_error(answer, 503)
    assert b"\r\nRetry-After: 5\r\n" in answer.head


@case(5)
async def left_while_waiting(slot: Slot, n: int) -> None:
    (await slot.wire()).write(request(asked("small", n, "lazy")))
    other = await connected(slot.port)
    other.write(request(asked("small", n)))
    is_answer(await other.answer(), small_answer(n))  # so the one before has been read too
    other.leave()
    slot.leave()


@case(2)
async def half_a_head(slot: Slot, n: int) -> None:
    is_error(await slot.ask_last(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Le"), 408)


@case(2)
async def half_a_body(slot: Slot, n: int) -> None:
    size = MIB + 100_000 if n % 2 else 1000  # a worker has the beginning of the larger one
    is_error(await slot.ask_last(request(asked("small", n, "large", size=size), length=size + 100_000)), 408)


@dataclass
class Load:
    """Sends the mix, with ``count`` requests each time; the order and the numbers differ."""

    port: int
    workers: Workers
    seed: int
    right: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._chance = Random(self.seed)
        self._numbers = itertools.count(1)

    async def send(self, count: int) -> None:
        """Every outcome has to be the expected one."""
        kinds = [name for name, (share, _) in CASES.items() for _ in range(max(1, count * share // 1000))]
        assert len(kinds) >= count, f"the shares sum up to {sum(share for share, _ in CASES.values())}"
        self._chance.shuffle(kinds)
        self.right.clear()
        left = iter(kinds)
        await asyncio.gather(*(self._work(left) for _ in range(CLIENTS)))
        assert not self.wrong, (len(self.wrong), self.wrong[:10])
        assert self.right == Counter(kinds)

    async def _work(self, left: Iterator[str]) -> None:
        slot = Slot(self.port, self.workers, self._chance)
        for kind in left:
            n = next(self._numbers)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await CASES[kind][1](slot, n)
                self.right[kind] += 1
            except (AssertionError, OSError, EOFError, TimeoutError, LookupError, ValueError) as error:
                self.wrong.append(f"{kind} {n}: {error!r}"[:600])
                slot.drop()
        slot.drop()


@pytest.mark.parametrize("count", [3_000, pytest.param(10_000, marks=pytest.mark.soak)])
async def test_after_thousands_of_mixed_requests_and_as_many_again_nothing_is_left(tmp_path: Path, count: int) -> None:
    limits = {"max_body": MAX_BODY, "queue_timeout": 0.3, "head_timeout": 0.5, "body_timeout": 0.5}
    async with contextlib.AsyncExitStack() as stack:
        workers = await stack.enter_async_context(running_workers(3))
        dead = stack.enter_context(socket.socket())
        dead.bind(("127.0.0.1", 0))  # and does not listen
        workers.dead_port = dead.getsockname()[1]
        balancer = await stack.enter_async_context(running_balancer(tmp_path, workers, **limits))
        files = balancer.open_files()
        load = Load(balancer.port, workers, seed=20240917)
        sizes = []
        for number in (3_000, count, count):
            began = time.monotonic()
            await load.send(number)
            print(f"{number} in {time.monotonic() - began:.1f} s")
            await balancer.nothing_is_in_flight(workers)
            await until(lambda: balancer.open_files() == files, "the closing of what was opened")
            sizes.append(balancer.memory())
            print(f"{files} open files, {sizes[-1] / MIB:.2f} MiB")
            await until(lambda: not workers.sides, "the workers hear of the end of each connection")
        assert sizes[2] - sizes[1] < NOISE, sizes


# a client that leaves takes its request with it


@asynccontextmanager
async def one_worker(folder: Path, receive_buffer: int | None = None) -> AsyncIterator[tuple[Running, Workers]]:
    async with running_workers(1, receive_buffer) as workers, running_balancer(folder, workers) as balancer:
        yield balancer, workers


async def _ask_for(kind: str, balancer: Running, workers: Workers) -> Wire:
    wire, arrival = await connected(balancer.port), workers.arrival(1)
    wire.write(request(asked(kind, 1)))
    await asyncio.wait_for(arrival, PATIENCE_S)
    return wire


async def _in_mid_answer(balancer: Running, workers: Workers) -> Wire:
    wire = await _ask_for("endless", balancer, workers)
    await asyncio.wait_for(wire.some(b'"event": 3'), PATIENCE_S)
    return wire


async def _before_the_answer(balancer: Running, workers: Workers) -> Wire:
    return await _ask_for("nothing", balancer, workers)


async def _while_it_does_not_read(balancer: Running, workers: Workers) -> Wire:
    """The balancer has stopped the worker."""
    wire, arrival = await connected(balancer.port, receive_buffer=8192), workers.arrival(1)
    wire.transport.pause_reading()
    wire.write(request(asked("flood_50", 1)))
    await asyncio.wait_for(arrival, PATIENCE_S)
    await stopped(workers.running[1])
    return wire


async def stopped(side: WorkerSide) -> None:
    """Until nothing has been taken from a worker for a while."""
    seen, since = side.sent, time.monotonic()
    end = since + SETTLED_S
    while time.monotonic() - since < 0.3 or not side.paused:
        await asyncio.sleep(0.01)
        assert time.monotonic() < end, f"the worker is never stopped: {side.sent}"
        if side.sent != seen:
            seen, since = side.sent, time.monotonic()


async def _in_mid_upload(balancer: Running, workers: Workers) -> Wire:
    wire, arrival = await connected(balancer.port), workers.arrival(1)
    wire.write(request(asked("nothing", 1, size=3 * MIB), length=30 * MIB))
    await asyncio.wait_for(arrival, PATIENCE_S)
    await until(lambda: not wire.transport.get_write_buffer_size(), "the sending of it")
    return wire


async def _with_more_behind(balancer: Running, workers: Workers) -> Wire:
    """So much that the balancer has stopped reading, and cannot hear it going; nor is there anything to be written."""
    wire = await _ask_for("stalling", balancer, workers)
    wire.write(request(asked("small", 2), length=1_000_000) + b"z" * 100_000)
    await until(lambda: not wire.transport.get_write_buffer_size(), "the sending of it")
    await asyncio.wait_for(wire.some(b'"event": 9'), PATIENCE_S)
    return wire


LEAVING = [_in_mid_answer, _before_the_answer, _while_it_does_not_read, _in_mid_upload, _with_more_behind]


@pytest.mark.parametrize("leave", [Wire.leave, Wire.reset], ids=["end", "reset"])
@pytest.mark.parametrize("when", LEAVING, ids=lambda when: when.__name__.strip("_"))
async def test_a_worker_is_told_within_1_s_that_the_client_has_left(
    tmp_path: Path, when: Callable[[Running, Workers], Awaitable[Wire]], leave: Callable[[Wire], None]
) -> None:
    async with one_worker(tmp_path) as (balancer, workers):
        wire = await when(balancer, workers)
        assert workers.open == 1
        leave(wire)
        await until(lambda: not workers.open, "the end of the worker's request", 1.0)
        await balancer.nothing_is_in_flight(workers)


async def test_a_worker_that_does_not_take_an_upload_is_told_within_1_s_that_the_client_has_left(
    tmp_path: Path,
) -> None:
    async with one_worker(tmp_path, receive_buffer=8192) as (balancer, workers):
        wire, arrival = await connected(balancer.port), workers.arrival(1)
        wire.write(request(asked("takes_nothing", 1, size=30 * MIB)))
        await asyncio.wait_for(arrival, PATIENCE_S)
        side = workers.running[1]
        await still(wire.transport.get_write_buffer_size)
        assert wire.transport.get_write_buffer_size() > MIB
        wire.reset()  # an end would wait behind what nobody reads
        end = time.monotonic() + 1.0
        while side.busy:
            assert time.monotonic() < end, "the worker was not told within 1 s"
            with contextlib.suppress(OSError, RuntimeError):
                side.transport.resume_reading()
            await asyncio.sleep(0.005)
        await balancer.nothing_is_in_flight(workers)


async def still(value: Callable[[], int]) -> None:
    """Until ``value`` has not changed for a while."""
    seen, since = value(), time.monotonic()
    end = since + SETTLED_S
    while time.monotonic() - since < 0.3:
        await asyncio.sleep(0.01)
        assert time.monotonic() < end, "it never comes to rest"
        if value() != seen:
            seen, since = value(), time.monotonic()


# a client that does not read


async def test_a_client_that_stops_reading_costs_4_mib_at_most_and_stops_nobody_else(tmp_path: Path) -> None:
    async with one_worker(tmp_path) as (balancer, workers):

        async def go_on(first: int) -> None:
            async def one(n: int) -> None:
                wire = await connected(balancer.port)
                wire.write(request(asked("long_stream", n)))
                is_answer(await wire.answer(), b"".join(events(n, 50)))
                wire.leave()

            async with asyncio.timeout(PATIENCE_S):
                await asyncio.gather(*(one(n) for n in range(first, first + 20)))

        async with asyncio.timeout(PATIENCE_S):
            wire = await connected(balancer.port)
            wire.write(request(asked("flood_1", 2)))
            assert (await wire.answer()).complete
            wire.leave()
        await go_on(100)
        before = balancer.memory()

        wire = await _while_it_does_not_read(balancer, workers)
        side = workers.running[1]
        sent, most = side.sent, balancer.memory()
        others = asyncio.create_task(go_on(200))
        while not others.done():
            most = max(most, balancer.memory())
            await asyncio.sleep(0.01)
        await others
        assert side.busy and side.sent == sent < 50_000_000
        print(f"{(most - before) / MIB:.2f} MiB more, {sent} bytes sent")
        assert most - before < 4 * MIB

        wire.transport.resume_reading()  # nothing of it is lost
        async with asyncio.timeout(PATIENCE_S):
            answer = await wire.answer()
        wire.leave()
        assert answer.complete and answer.body == FLOOD_EVENT * (16 * (50_000_000 // (16 * len(FLOOD_EVENT))))
        await balancer.nothing_is_in_flight(workers)
