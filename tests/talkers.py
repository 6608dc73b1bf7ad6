"""Workers that count their connections, and readers that write down what they are told."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from fakes import soon
from lb.protocol.errors import AttemptFailed
from lb.protocol.http1.response import ResponseHead
from lb.upstream.connections import TcpEndpoint, Upstream
from lbfakes import (
    DEADLINE_S,
    RawWorker,
    Worker,
    listening,
    read_message,
    spec,
)

StartWorker = Callable[..., Awaitable[Worker]]
StartRaw = Callable[..., Awaitable[RawWorker]]
GET = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"


@dataclass
class Talker:
    """A worker that counts its connections and answers each request on them by ``say``; None closes the connection."""

    say: Callable[[int], bytes | None] = lambda number: OK
    port: int = 0
    opened: int = 0
    open: int = 0
    asked: list[bytes] = field(default_factory=list)
    writers: list[asyncio.StreamWriter] = field(default_factory=list)
    greeting: bytes = b""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened += 1
        self.open += 1
        self.writers.append(writer)
        try:
            writer.write(self.greeting)
            while True:
                self.asked.append(await read_message(reader))
                answer = self.say(len(self.asked))
                if answer is None:
                    break
                writer.write(answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


StartTalker = Callable[..., Awaitable[Talker]]


@asynccontextmanager
async def talking(talker: Talker, tls: ssl.SSLContext | None = None) -> AsyncIterator[Talker]:
    server = await asyncio.start_server(talker, sock=listening(), ssl=tls)
    talker.port = server.sockets[0].getsockname()[1]
    try:
        yield talker
    finally:
        server.close()
        for writer in talker.writers:
            writer.close()
        await soon(lambda: talker.open == 0, "the end of all connections")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def where(upstream: Upstream, port: int, **fields: str) -> TcpEndpoint:
    return upstream.endpoint(spec(port=port, **fields))


async def fetched(upstream: Upstream, port: int, timeout: float = DEADLINE_S) -> tuple[int, bytes]:
    return await upstream.fetch(where(upstream, port), GET, timeout)


async def failed(asking: Awaitable[object]) -> AttemptFailed:
    with pytest.raises(AttemptFailed) as caught:
        await asking
    return caught.value


@dataclass
class Reading:
    """A reader that writes down what it is told."""

    raw: bool = False
    told: list[str] = field(default_factory=list)
    body: bytes = b""
    reason: str = ""
    on: Callable[[str], None] = lambda what: None
    left: bool = False  # it wants no more

    def _tell(self, what: str) -> None:
        self.told.append(what)
        self.on(what)

    def on_head(self, head: ResponseHead) -> None:
        self._tell(f"head {head.status}")

    def on_whole(self, head: ResponseHead, body: bytes) -> None:
        for tell in (lambda: self.on_head(head), lambda: self.on_body(body) if body else None, self.on_end):
            if not self.left:
                tell()

    def on_body(self, data: bytes) -> None:
        self.body += data
        self._tell("body")

    def on_end(self) -> None:
        self._tell("end")

    def on_failure(self, reason: str) -> None:
        self.reason = reason
        self._tell("failure")

    def on_writable(self, writable: bool) -> None:
        self._tell(f"writable {writable}")

    async def over(self) -> None:
        await soon(lambda: self.told and self.told[-1] in ("end", "failure"), "the end of the answer")
