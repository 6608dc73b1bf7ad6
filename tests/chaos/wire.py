"""A client that keeps every byte: HTTP/1.1 on a bare socket, one request at a time on a kept connection.

A library's client repairs, retries and hides; here a broken end has to stay visible, and fifty streams have to cost
little.
"""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from typing import Any

_END = b"0\r\n\r\n"


class Malformed(Exception):
    """These bytes are no HTTP/1.1 answer."""


@dataclass
class Answer:
    """What came back. ``problem`` is empty for an answer that is whole by HTTP's framing; times are seconds of the
    monotonic clock, ``pause`` the longest time between two reads, ``last`` the last one."""

    began: float
    ended: float = 0.0
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    problem: str = ""
    pause: float = 0.0
    connected: float = 0.0
    last: float = 0.0

    def json(self) -> Any:
        return json.loads(self.body)


class Connection(asyncio.Protocol):
    """One connection to the balancer."""

    def __init__(self) -> None:
        self.opened = time.monotonic()
        self.usable = False
        self._transport: Any = None
        self._answer: Answer | None = None
        self._done: asyncio.Future[None] | None = None
        self._seen = bytearray()
        self._last = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self.usable = transport, True  # uvloop's are no asyncio.Transport

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        self._finish(f"connection lost: {exc}" if exc else "connection closed before the end of the answer")

    def data_received(self, data: bytes) -> None:
        now = time.monotonic()
        if self._answer is None:
            self.close()  # bytes that nobody asked for
            return
        self._answer.pause = max(self._answer.pause, now - self._last)
        self._last = self._answer.last = now
        self._seen += data
        try:
            if _whole(self._seen, self._answer):
                self._finish("")
        except Malformed as error:
            self._finish(str(error))
            self.close()

    async def ask(self, data: bytes, quiet: float) -> Answer:
        """Sends ``data`` and waits for the answer, as long as something comes every ``quiet`` seconds."""
        loop = asyncio.get_running_loop()
        answer = self._answer = Answer(time.monotonic(), connected=self.opened)
        self._last, self._done, self._seen = answer.began, loop.create_future(), bytearray()
        self._transport.write(data)
        try:
            while not self._done.done():
                left = self._last + quiet - time.monotonic()
                if left <= 0:
                    self._finish(f"nothing came for {quiet:g} s")
                    self.close()
                    break
                await asyncio.wait([self._done], timeout=left)
        finally:
            self._answer = None
        if answer.headers.get("connection", "").lower() == "close":
            self.close()
        return answer

    def close(self) -> None:
        self.usable = False
        self._transport.close()

    def _finish(self, problem: str) -> None:
        if self._answer is None or self._done is None or self._done.done():
            return
        self._answer.ended, self._answer.problem = time.monotonic(), problem
        if problem:
            self._answer.body = _what_came(self._seen, self._answer)
        self._done.set_result(None)


def request(method: str, path: str, body: Any = None, key: str = "") -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    fields = "Content-Type: application/json\r\n" if data else ""
    fields += f"Authorization: Bearer {key}\r\n" if key else ""
    return f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}Content-Length: {len(data)}\r\n\r\n".encode() + data


class Client:
    """Asks one thing after the other at 127.0.0.1:``port``, on one connection while that lasts."""

    def __init__(self, port: int, quiet: float = 30.0) -> None:
        self._port, self._quiet = port, quiet
        self._connection: Connection | None = None

    async def ask(self, data: bytes) -> Answer:
        """Never raises for what the other side does: it is in ``problem``."""
        began = time.monotonic()
        try:
            if self._connection is None or not self._connection.usable:
                loop = asyncio.get_running_loop()
                async with asyncio.timeout(self._quiet):
                    _, self._connection = await loop.create_connection(Connection, "127.0.0.1", self._port)
        except (OSError, TimeoutError) as error:
            return Answer(began, time.monotonic(), problem=f"no connection: {error or type(error).__name__}")
        answer = await self._connection.ask(data, self._quiet)
        answer.began = began
        return answer

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _head(seen: bytearray, answer: Answer) -> int:
    """Where the body begins, 0 as long as the head is not whole."""
    at = seen.find(b"\r\n\r\n")
    if at < 0:
        return 0
    if not answer.status:
        lines = seen[:at].decode("latin-1").split("\r\n")
        version, _, rest = lines[0].partition(" ")
        if version != "HTTP/1.1" or not rest[:3].isdigit():
            raise Malformed(f"no status line: {lines[0][:60]!r}")
        answer.status = int(rest[:3])
        pairs = (line.partition(":") for line in lines[1:])
        answer.headers = {name.lower(): value.strip() for name, _, value in pairs}
    return at + 4


def _whole(seen: bytearray, answer: Answer) -> bool:
    """Whether the answer has come to its end; then its body is in it."""
    start = _head(seen, answer)
    if not start:
        return False
    if answer.headers.get("transfer-encoding", "").lower() == "chunked":
        if not seen.endswith(_END):
            return False
        body, ended = _unchunk(seen, start)
        if ended:
            answer.body = body
        return ended
    try:
        length = int(answer.headers["content-length"])
    except (KeyError, ValueError):
        raise Malformed("an answer without a length") from None
    if len(seen) - start > length:
        raise Malformed("bytes after the end of the answer")
    answer.body = bytes(seen[start:])
    return len(answer.body) == length


def _unchunk(seen: bytearray, at: int) -> tuple[bytes, bool]:
    """The payload from ``at`` on, and whether the last chunk is there and nothing behind it."""
    parts: list[bytes] = []
    while True:
        line = seen.find(b"\r\n", at)
        if line < 0:
            return b"".join(parts), False
        try:
            size = int(bytes(seen[at:line]).partition(b";")[0], 16)
        except ValueError:
            raise Malformed(f"no size of a chunk: {bytes(seen[at:line])[:40]!r}") from None
        at = line + 2
        if not size:
            if len(seen) > at + 2:
                raise Malformed("bytes after the last chunk")
            return b"".join(parts), len(seen) == at + 2
        parts.append(bytes(seen[at : at + size]))
        at += size + 2
        if at > len(seen):
            return b"".join(parts), False
        if seen[at - 2 : at] != b"\r\n":
            raise Malformed("a chunk does not end where its size says")


def _what_came(seen: bytearray, answer: Answer) -> bytes:
    """As much of the body as can be made out of an answer that broke off."""
    try:
        start = _head(seen, answer)
        if start and answer.headers.get("transfer-encoding", "").lower() == "chunked":
            return _unchunk(seen, start)[0]
        return bytes(seen[start:]) if start else b""
    except Malformed:
        return b""
