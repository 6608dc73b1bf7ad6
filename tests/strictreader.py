"""An independent reader of what HTTP/1.1 has to look like, and a worker behind a balancer that remembers every byte.

Written from RFC 9110 and 9112, and not from the code that it is held against.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from lbfakes import DEADLINE_S, Balanced, listening

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

_NAME = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_REQUEST_LINE = re.compile(rb"(" + _NAME + rb") (/[!\"$-~]*) HTTP/1\.1")
_STATUS_LINE = re.compile(rb"HTTP/1\.1 ([1-5][0-9][0-9]) [ -~]*")
_FIELD_LINE = re.compile(rb"(" + _NAME + rb"):([\t\x20-\x7e\x80-\xff]*)")


class NotHttp(Exception):
    """Bytes that are not a sequence of strict messages."""


class Incomplete(Exception):
    """Bytes that may still become one."""


@dataclass
class Message:
    """``start``: the groups of its first line. ``fields``: lower-case names."""

    start: tuple[bytes, ...]
    fields: list[tuple[bytes, bytes]]
    body: bytes

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]

    @property
    def status(self) -> int:
        return int(self.start[0])

    @property
    def closes(self) -> bool:
        return self.all(b"connection") == [b"close"]


def read_head(data: bytes, line: re.Pattern[bytes]) -> tuple[Message, bytes]:
    head, found, rest = data.partition(b"\r\n\r\n")
    if not found:
        raise Incomplete
    first, *lines = head.split(b"\r\n")
    if (start := line.fullmatch(first)) is None:
        raise NotHttp(f"first line {first!r}")
    fields = []
    for each in lines:
        if (match := _FIELD_LINE.fullmatch(each)) is None:
            raise NotHttp(f"field line {each!r}")
        fields.append((match[1].lower(), match[2].strip(b" \t")))
    return Message(start.groups(), fields, b""), rest


def read_body(message: Message, data: bytes) -> bytes:
    """Sets the body; what follows it."""
    lengths, codings = message.all(b"content-length"), message.all(b"transfer-encoding")
    if len(lengths) + len(codings) > 1:
        raise NotHttp(f"framed by {lengths} and {codings}")
    if codings:
        if codings != [b"chunked"]:
            raise NotHttp(f"coding {codings}")
        return read_chunks(message, data)
    length = 0
    if lengths:
        if re.fullmatch(rb"0|[1-9][0-9]*", lengths[0]) is None:
            raise NotHttp(f"length {lengths}")
        length = int(lengths[0])
    if len(data) < length:
        raise Incomplete
    message.body = data[:length]
    return data[length:]


def read_chunks(message: Message, data: bytes) -> bytes:
    while True:
        size, found, data = data.partition(b"\r\n")
        if not found:
            raise Incomplete
        if re.fullmatch(rb"[0-9A-Fa-f]+", size) is None:
            raise NotHttp(f"chunk size {size!r}")
        length = int(size, 16)
        if len(data) < length + 2:
            raise Incomplete
        if data[length : length + 2] != b"\r\n":
            raise NotHttp("chunk without end, or trailers")
        message.body += data[:length]
        data = data[length + 2 :]
        if not length:
            return data


def requests_in(data: bytes) -> tuple[list[Message], bytes]:
    """All complete requests, and what is left. Raises NotHttp."""
    found = []
    while data:
        try:
            message, rest = read_head(data, _REQUEST_LINE)
            if len(message.all(b"host")) != 1:
                raise NotHttp(f"hosts {message.all(b'host')}")
            data = read_body(message, rest)
        except Incomplete:
            break
        found.append(message)
    return found, data


def answers_in(data: bytes) -> list[Message]:
    """Raises NotHttp, or Incomplete for an answer without its end."""
    found = []
    while data:
        message, data = read_head(data, _STATUS_LINE)
        if message.status >= 200:
            data = read_body(message, data)
        found.append(message)
    return found


@dataclass
class Recorder:
    """What each connection has brought."""

    port: int
    connections: list[bytearray] = field(default_factory=list)

    @property
    def requests(self) -> list[Message]:
        """Raises NotHttp if anything but whole requests has come."""
        found = []
        for connection in self.connections:
            messages, rest = requests_in(bytes(connection))
            if rest:
                raise NotHttp(f"{rest!r} is left")
            found += messages
        return found

    @property
    def targets(self) -> list[bytes]:
        return [message.start[1] for message in self.requests]


@asynccontextmanager
async def running_recorder(answer: bytes = ANSWER) -> AsyncIterator[Recorder]:
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        record, answered = bytearray(), 0
        recorder.connections.append(record)
        tasks.add(task := asyncio.current_task())  # type: ignore[arg-type]
        try:
            while data := await reader.read(65536):
                if not any(record is each for each in recorder.connections):
                    record, answered = bytearray(), 0
                    recorder.connections.append(record)
                record += data
                count = len(requests_in(bytes(record))[0])
                writer.write(answer * (count - answered))
                answered = count
        except NotHttp:
            writer.write(answer)  # so that the test need not wait
        except ConnectionError:
            pass
        finally:
            writer.close()
            tasks.discard(task)  # type: ignore[arg-type]

    server = await asyncio.start_server(connected, sock=listening())
    recorder = Recorder(server.sockets[0].getsockname()[1])
    try:
        yield recorder
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass
class Pair:
    """A balancer and the one worker behind it."""

    balancer: Balanced
    worker: Recorder

    async def ask(self, request: bytes) -> list[Message]:
        """All answers until the connection is closed. Fails if it is not."""
        return answers_in(await self.balancer.raw(request))

    async def refusal(self, request: bytes) -> Message:
        """The one answer, with which the connection ends."""
        async with self.balancer.connection() as (reader, writer):
            writer.write(request)
            return await only_answer(reader, request)

    async def bytewise(self, request: bytes) -> Message:
        async with self.balancer.connection() as (reader, writer):
            # asyncio and uvloop set TCP_NODELAY. The balancer lives in this very loop: it reads each byte before the
            # next one is sent.
            for byte in request:
                writer.write(bytes((byte,)))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                if reader.at_eof():
                    break
            return await only_answer(reader, request)

    async def saw_nothing(self) -> None:
        """Not a byte, not a connection, before a request that is in order. The next question begins anew."""
        assert self.worker.connections == [], self.worker.connections
        (answer,) = await self.ask(b"GET /version?barrier HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.status == 200
        assert self.worker.targets == [b"/version?barrier"]
        assert len(self.worker.connections) == 1
        self.worker.connections.clear()


async def only_answer(reader: asyncio.StreamReader, request: bytes) -> Message:
    """The last one: it says so, and nothing follows."""
    answer = await read_answer(reader)
    assert answer.closes, (request[:300], answer)
    assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b"", request[:300]
    return answer


async def read_answer(reader: asyncio.StreamReader, bodiless: bool = False) -> Message:
    data = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)
    message, _ = read_head(data, _STATUS_LINE)
    if not bodiless and message.status >= 200:
        message.body = await asyncio.wait_for(reader.readexactly(int(message.all(b"content-length")[0])), DEADLINE_S)
    return message
