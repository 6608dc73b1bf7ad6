"""A client's connection: a protocol in this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from exact.messages import LENGTH, Chunks, reset


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
            length = LENGTH.search(buffer, 0, end + 2)
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
