"""Workers that do what the body of a request says: protocols in this process, which cost little."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from exact.messages import LENGTH, Chunks, chunk, event_count, events, reset, small_answer, upload_answer
from lbfakes import listening

_KIND = re.compile(rb'"kind": "(\w+)", "n": (\d+)')
_CHUNKED = re.compile(rb"\r\ntransfer-encoding: *chunked\r\n", re.IGNORECASE)
_OK = b"HTTP/1.1 200 OK\r\nServer: fake\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
_EVENTS = (
    b"HTTP/1.1 200 OK\r\nServer: fake\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
FLOOD_EVENT = b"data: " + b"x" * 4000 + b"\n\n"
FLOOD_BATCH = chunk(FLOOD_EVENT) * 16


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
            length = LENGTH.search(buffer, 0, end + 2)
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
