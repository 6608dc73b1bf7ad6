"""What is not plainly HTTP/1.1 is refused, its connection ends, and no byte of it reaches a worker.

Written from RFC 9110, 9112 and 3986, from what is known of request smuggling, and from `docs/decisions/0011`; not from
the code. Every form stands alone, with a smuggled request behind it, and byte by byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lbfakes import DEADLINE_S, Balanced, listening, spec, until

StartBalancer = Callable[..., Awaitable[Balanced]]

#: The balancer behind the forms takes bodies of at most so many bytes.
MAX_BODY = 1000

EOL = b"\r\n"
END = b"0\r\n\r\n"
HELLO = b"5\r\nhello\r\n" + END
SMUGGLED = b"GET /version?smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
IN_CHUNKS = b"%x\r\n" % len(SMUGGLED) + SMUGGLED + b"\r\n0\r\n\r\n"
PLAIN = b"GET /version?plain HTTP/1.1\r\nHost: x\r\n\r\n"


# a worker that remembers every byte, and an independent reader of what HTTP has to look like

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
        """Not a byte, not a connection, before a request that is in order."""
        assert self.worker.connections == [], self.worker.connections
        (answer,) = await self.ask(b"GET /version?barrier HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.status == 200
        assert self.worker.targets == [b"/version?barrier"]
        assert len(self.worker.connections) == 1


@pytest.fixture
async def start_pair(start_balancer: StartBalancer) -> AsyncIterator[Callable[..., Awaitable[Pair]]]:
    async with contextlib.AsyncExitStack() as exits:

        async def start(answer: bytes = ANSWER, **config: object) -> Pair:
            worker = await exits.enter_async_context(running_recorder(answer))
            balancer = await start_balancer(**config)
            balancer.push(spec(port=worker.port))
            return Pair(balancer, worker)

        yield start


StartPair = Callable[..., Awaitable[Pair]]


@pytest.fixture
async def pair(start_pair: StartPair) -> Pair:
    return await start_pair(max_body=MAX_BODY)


# the forms


@dataclass(frozen=True)
class Form:
    data: bytes
    allowed: frozenset[int]


def head(line: bytes, *lines: bytes, host: bytes = b"Host: x") -> bytes:
    return EOL.join((line, *((host,) if host else ()), *lines, b"", b""))


def get(*lines: bytes) -> bytes:
    return head(b"GET /version HTTP/1.1", *lines)


def post(*lines: bytes, body: bytes = b"hello") -> bytes:
    return head(b"POST /v1/completions HTTP/1.1", *lines) + body


def chunks(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked", body=body)


def target(given: bytes) -> bytes:
    return head(b"GET " + given + b" HTTP/1.1")


#: Malformed: one answer, and the connection ends.
MALFORMED: dict[str, Form] = {}

#: Not on offer: the connection may go on.
REFUSED: dict[str, Form] = {}


def add(forms: dict[str, Form], family: str, name: str, data: bytes, *allowed: int) -> None:
    key = f"{family}: {name}"
    assert key not in forms, key
    forms[key] = Form(data, frozenset(allowed or (400,)))


def bad(family: str, given: dict[str, bytes], *allowed: int) -> None:
    for name, data in given.items():
        add(MALFORMED, family, name, data, *allowed)


def show(data: bytes) -> str:
    return data.decode("latin-1").encode("unicode_escape").decode() or "nothing"


# Content-Length against Transfer-Encoding

bad(
    "CL.TE",
    {
        "the classic": post(b"Content-Length: 6", b"Transfer-Encoding: chunked", body=END + b"G"),
        "coding first": post(b"Transfer-Encoding: chunked", b"Content-Length: 6", body=END + b"G"),
        "lengths agree": post(b"Content-Length: 15", b"Transfer-Encoding: chunked", body=HELLO),
        "length 0": post(b"Content-Length: 0", b"Transfer-Encoding: chunked", body=HELLO),
        "a prefix is left": post(b"Content-Length: 30", b"Transfer-Encoding: chunked", body=END + SMUGGLED),
        "other fields between": post(b"Content-Length: 5", b"A: b", b"transfer-encoding: chunked", body=HELLO),
        "on a GET": get(b"Content-Length: 5", b"Transfer-Encoding: chunked") + END,
        "named in Connection": post(
            b"Connection: Content-Length", b"Content-Length: 5", b"Transfer-Encoding: chunked", body=HELLO
        ),
    },
)
bad(
    "TE.CL",
    {
        "the classic": post(
            b"Content-Length: 4", b"Transfer-Encoding: chunked", body=IN_CHUNKS
        ),
        "coding first": post(
            b"Transfer-Encoding: chunked", b"Content-Length: 4", body=IN_CHUNKS
        ),
        "coding hidden by Connection": post(
            b"Connection: Transfer-Encoding", b"Transfer-Encoding: chunked", b"Content-Length: 5", body=HELLO
        ),
        "an unknown coding": post(b"Transfer-Encoding: identity", b"Content-Length: 5"),
        "an empty coding": post(b"Transfer-Encoding:", b"Content-Length: 5"),
    },
)

# Transfer-Encoding: decisions/0011 wants 400 for all but exactly `chunked`, where RFC 9112 6.1 has 501

for value in (
    b"", b"xchunked", b"x-chunked", b"chunkedx", b"chunke", b"chunked, chunked", b"chunked,chunked", b"chunked chunked",
    b"chunked;q=1", b"chunked; foo", b"chunked;", b'"chunked"', b"'chunked'", b",chunked", b"chunked,", b", chunked",
    b"gzip", b"gzip, chunked", b"chunked, gzip", b"deflate, chunked", b"identity", b"identity, chunked",
    b"chunked, identity", b"trailers, chunked", b"cow", b"null", b"chun ked", b"chun\tked", b"[chunked]", b"chunked=1",
    b": chunked", b"\x0bchunked", b"chunked\x0b", b"\x0cchunked", b"chunked\x0c", b"chunked\x00", b"\x00chunked",
    b"chunked\x7f", b"chunked\x1f", b"chunked\x85", b"\xa0chunked", b"chunked\xa0", b"\xc2\xa0chunked",
    b"\xef\xbb\xbfchunked", b"chun\xe2\x84\xaaed", b"chunked\rX", b"chunked\nX",
):  # fmt: skip
    bad("TE", {f"[{show(value)}]": post(b"Transfer-Encoding: " + value, body=HELLO)})

bad(
    "TE.TE",
    {
        "the same line twice": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked", body=HELLO),
        "different case": post(b"transfer-encoding: chunked", b"TRANSFER-ENCODING: chunked", body=HELLO),
        "chunked and identity": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity", body=HELLO),
        "identity and chunked": post(b"Transfer-Encoding: identity", b"Transfer-Encoding: chunked", body=HELLO),
        "chunked and nothing": post(b"Transfer-Encoding: chunked", b"Transfer-Encoding:", body=HELLO),
        "chunked and x": post(b"Transfer-Encoding: chunked", b"Transfer-encoding: x", body=HELLO),
        "gzip and chunked": post(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked", body=HELLO),
    },
)

for line in (
    b"Transfer-Encoding : chunked", b"Transfer-Encoding\t: chunked", b" Transfer-Encoding: chunked",
    b"\tTransfer-Encoding: chunked", b"Transfer-Encoding\x00: chunked", b"\x00Transfer-Encoding: chunked",
    b"Transfer-Encoding\x0b: chunked", b"Transfer-Encoding\xa0: chunked", b"Transfer Encoding: chunked",
    b"Transfer-Encoding chunked", b"Transfer-Encoding=chunked", b"Transfer-Encoding\r\n : chunked",
    b"Transfer-Encoding:\r\n chunked", b"Transfer-Encoding:\r\n\tchunked", b"Transfer-Encoding: \r\n chunked",
    b"X: y\nTransfer-Encoding: chunked", b"X: y\rTransfer-Encoding: chunked", b"X: y\r\r\nTransfer-Encoding: chunked",
    b'"Transfer-Encoding": chunked', b"(Transfer-Encoding): chunked", b"Transfer-Encoding;: chunked",
    b"Tran\xc5\xbffer-Encoding: chunked", b"Transfer\xe2\x80\x90Encoding: chunked",
    b"X: y\r\n\x0bTransfer-Encoding: chunked",
):  # fmt: skip
    bad("TE line", {f"[{show(line)}]": post(b"Content-Length: 15", line, body=HELLO)})

bad(
    "TE in 1.0",
    {
        "chunked": head(b"POST /v1/completions HTTP/1.0", b"Transfer-Encoding: chunked") + HELLO,
        "chunked, kept alive": head(
            b"POST /v1/completions HTTP/1.0", b"Connection: keep-alive", b"Transfer-Encoding: chunked"
        ) + HELLO,
        "with a length": head(b"POST /v1/completions HTTP/1.0", b"Content-Length: 5", b"Transfer-Encoding: chunked")
        + HELLO,
        "identity": head(b"POST /v1/completions HTTP/1.0", b"Transfer-Encoding: identity") + HELLO,
        "without Host": head(b"POST /v1/completions HTTP/1.0", b"Transfer-Encoding: chunked", host=b"") + HELLO,
    },
)  # fmt: skip

# framing in a spelling that some readers fold into the right one

for line in (
    b"Transfer_Encoding: chunked", b"transfer_encoding: chunked", b"TRANSFER_ENCODING: chunked",
    b"Transfer_Encoding:chunked", b"Content_Length: 5", b"content_length: 0", b"CONTENT_LENGTH: 50",
):  # fmt: skip
    bad(
        "underscore",
        {
            f"[{show(line)}] beside a length": post(b"Content-Length: 15", line, body=HELLO),
            f"[{show(line)}] before a length": post(line, b"Content-Length: 15", body=HELLO),
            f"[{show(line)}] beside chunks": post(b"Transfer-Encoding: chunked", line, body=HELLO),
            f"[{show(line)}] alone": post(line, body=HELLO),
            f"[{show(line)}] on a GET": get(line) + HELLO,
        },
    )
bad(
    "underscore",
    {
        show(line): get(line)
        for line in (
            b"X_Forwarded_For: 1.2.3.4", b"X-Forwarded_For: 1.2.3.4", b"X_Forwarded-Proto: https", b"X_Request_Id: a",
            b"Proxy_Connection: close", b"Keep_Alive: 5", b"Content_Type: application/json", b"X_Forwarded_Host: a",
        )
    },
)  # fmt: skip

# Content-Length

for value in (
    b"", b"+5", b"-5", b"-0", b"-1", b"0x5", b"0b101", b"0o5", b"5,5", b"5, 5", b"5,6", b"5 5", b"5_0", b"5;", b"5.0",
    b"5e0", b'"5"', b"'5'", b"five", b"5h", b",5", b"5,", b"0,5", b"NaN", b"inf", b"true", b"5\t5", b"5\x0b", b"5\x0c",
    b"5\x00", b"\x005", b"5\x7f", b"5\xa0", b"\xb25", b"\xd9\xa5", b"\xef\xbc\x95", b"\xe0\xa5\xab", b"5\r", b"5\n",
    b"5\r5", b"5\n5", b"5\r\n 5", b"\r\n 5", b"(5)", b"5 (five)", b"5=5", b": 5",
):  # fmt: skip
    bad("CL", {f"[{show(value)}]": post(b"Content-Length: " + value)})
for name, value in {
    "2 to the 63rd": b"9223372036854775808", "2 to the 64th and 5": b"18446744073709551621", "30 digits": b"9" * 30,
    "5000 digits": b"9" * 5000,
}.items():  # fmt: skip
    bad("CL", {name: post(b"Content-Length: " + value)}, 400, 413)

bad(
    "CL twice",
    {
        "the same": post(b"Content-Length: 5", b"Content-Length: 5"),
        "another, larger": post(b"Content-Length: 5", b"Content-Length: 50"),
        "another, smaller": post(b"Content-Length: 50", b"Content-Length: 5"),
        "0 first": post(b"Content-Length: 0", b"Content-Length: 5"),
        "0 last": post(b"Content-Length: 5", b"Content-Length: 0"),
        "different case": post(b"content-length: 5", b"CONTENT-LENGTH: 5"),
        "one is empty": post(b"Content-Length: 5", b"Content-Length:"),
        "on a GET": get(b"Content-Length: 0", b"Content-Length: 5") + b"hello",
        "far apart": post(b"Content-Length: 5", *(b"A: b",) * 20, b"Content-Length: 6"),
    },
)
for line in (
    b"Content-Length : 5", b"Content-Length\t: 5", b" Content-Length: 5", b"\tContent-Length: 5",
    b"Content-Length\x00: 5", b"Content-Length\x0b: 5", b"Content Length: 5", b"Content-Length 5", b"Content-Length=5",
    b"Content-Length", b"Content-Length\r\n : 5", b"Content-Length:\r\n 5", b"X: y\nContent-Length: 5",
    b"X: y\rContent-Length: 5", b"Content-Length\xad: 5",
):  # fmt: skip
    bad("CL line", {f"[{show(line)}]": post(line)})

# line ends

bad(
    "LF",
    {
        "everywhere": b"GET /version HTTP/1.1\nHost: x\n\n",
        "after the request line": b"GET /version HTTP/1.1\nHost: x\r\n\r\n",
        "after a field": b"GET /version HTTP/1.1\r\nHost: x\nA: b\r\n\r\n",
        "as the empty line": b"GET /version HTTP/1.1\r\nHost: x\r\n\n",
        "before the empty line": b"GET /version HTTP/1.1\r\nHost: x\n\r\n",
        "before the request": b"\n" + get(),
        "in a value": get(b"A: b\nc"),
        "a field in a value": get(b"A: b\nContent-Length: 40"),
        "in a name": get(b"A\nb: c"),
        "in the target": target(b"/ver\nsion"),
        "before CRLF": get(b"A: b\n"),
        "as separator": b"GET\n/version HTTP/1.1\r\nHost: x\r\n\r\n",
        "alone": b"\n",
    },
)
bad(
    "CR",
    {
        "everywhere": b"GET /version HTTP/1.1\rHost: x\r\rX",
        "after the request line": b"GET /version HTTP/1.1\rHost: x\r\n\r\n",
        "after a field": b"GET /version HTTP/1.1\r\nHost: x\rA: b\r\n\r\n",
        "as the empty line": b"GET /version HTTP/1.1\r\nHost: x\r\n\rX\r\n\r\n",
        "before the request": b"\r" + get(),
        "in a value": get(b"A: b\rc"),
        "at the end of a value": get(b"A: b\r"),
        "at the beginning of a value": get(b"A: \rb"),
        "in a name": get(b"A\rb: c"),
        "after a name": get(b"A\r: c"),
        "at the beginning of a line": get(b"\rA: c"),
        "in the target": target(b"/ver\rsion"),
        "after the version": b"GET /version HTTP/1.1\r\r\nHost: x\r\n\r\n",
        "as separator": b"GET\r/version HTTP/1.1\r\nHost: x\r\n\r\n",
        "LF CR": b"GET /version HTTP/1.1\n\rHost: x\n\r\n\r",
    },
)
bad(
    "fold",
    {
        "with a space": get(b"A: b\r\n c"),
        "with a tab": get(b"A: b\r\n\tc"),
        "an empty one": get(b"A: b\r\n "),
        "only a tab": get(b"A: b\r\n\t"),
        "into an empty value": get(b"A:\r\n b"),
        "before the colon": get(b"A\r\n : b"),
        "after the request line": head(b"GET /version HTTP/1.1", b"A: b", host=b" Host: x"),
        "a field after the request line": head(b"GET /version HTTP/1.1", b"Host: x", host=b" A: b"),
        "Host": head(b"GET /version HTTP/1.1", host=b"Host:\r\n x"),
        "Host to another": head(b"GET /version HTTP/1.1", host=b"Host: x\r\n y"),
        "with an LF": get(b"A: b\n c"),
        "with a CR": get(b"A: b\r c"),
    },
)

# NUL and other controls

bad(
    "NUL",
    {
        "first": b"\x00" + get(),
        "in the method": head(b"G\x00ET /version HTTP/1.1"),
        "after the method": head(b"GET\x00 /version HTTP/1.1"),
        "in the target": target(b"/ver\x00sion"),
        "after the target": target(b"/version\x00"),
        "in the query": target(b"/version?a=\x00"),
        "in the version": head(b"GET /version HTTP/1\x00.1"),
        "after the version": head(b"GET /version HTTP/1.1\x00"),
        "in a name": get(b"A\x00b: c"),
        "before a name": get(b"\x00A: c"),
        "before the colon": get(b"A\x00: c"),
        "after the colon": get(b"A:\x00c"),
        "in a value": get(b"A: b\x00c"),
        "after a value": get(b"A: b\x00"),
        "in Host": head(b"GET /version HTTP/1.1", host=b"Host: x\x00y"),
        "a line of it": get(b"\x00"),
        "many": b"\x00" * 100,
    },
)
for byte in (*range(1, 9), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F):
    bad("control", {f"{byte:02x} in a value": get(b"A: b" + bytes((byte,)) + b"c")})
bad(
    "control",
    {
        "01 in a name": get(b"A\x01: b"),
        "7f in a name": get(b"A\x7f: b"),
        "1b in the target": target(b"/version?\x1b[2J"),
        "01 in the target": target(b"/ver\x01sion"),
        "7f in the target": target(b"/version?\x7f"),
        "01 in the method": head(b"GET\x01 /version HTTP/1.1"),
        "0b at the end of a line": get(b"A: b\x0b"),
        "0c for a blank": head(b"GET\x0c/version\x0cHTTP/1.1"),
        "0b for a blank": head(b"GET\x0b/version\x0bHTTP/1.1"),
        "01 in Host": head(b"GET /version HTTP/1.1", host=b"Host: \x01x"),
    },
)

# fields

bad(
    "field",
    {
        "a space before the colon": get(b"A : b"),
        "a tab before the colon": get(b"A\t: b"),
        "spaces before the colon": get(b"A   : b"),
        "no colon": get(b"A"),
        "no colon, with a blank": get(b"A b"),
        "an empty name": get(b": b"),
        "only a colon": get(b":"),
        "two colons first": get(b":: b"),
        "a blank for a name": get(b" : b"),
        "a tab for a name": get(b"\t: b"),
        "a blank before the name": get(b" A: b"),
        "a tab before the name": get(b"\tA: b"),
        "a blank in the name": get(b"A b: c"),
        "a tab in the name": get(b"A\tb: c"),
        "a line of a blank": get(b" "),
        "a name in latin-1": get(b"\xe9: b"),
        "a name in UTF-8": get("é: b".encode()),
        "a byte order mark": get(b"\xef\xbb\xbfA: b"),
        "a name with a no-break space": get(b"A\xa0: b"),
        "a full-width colon": get("A： b".encode()),
        "a second request line": get(b"GET /version HTTP/1.1"),
        "a status line": get(b"HTTP/1.1 200 OK"),
    },
)
for byte in b'(),/;<=>?@[\\]{}"':
    bad("field", {f"{chr(byte)} in a name": get(b"A" + bytes((byte,)) + b"b: c")})

# Host

bad(
    "Host",
    {
        "none": head(b"GET /version HTTP/1.1", b"A: b", host=b""),
        "no field at all": head(b"GET /version HTTP/1.1", host=b""),
        "none on a POST": head(b"POST /v1/completions HTTP/1.1", b"Content-Length: 5", host=b"") + b"hello",
        "none beside an absolute target": head(b"GET http://x/version HTTP/1.1", host=b""),
        "twice the same": get(b"Host: x"),
        "two": get(b"Host: y"),
        "two, in different case": get(b"hOST: y"),
        "two, one empty": get(b"Host:"),
        "two beside an absolute target": head(b"GET http://x/version HTTP/1.1", b"Host: y"),
        "two in 1.0": head(b"GET /version HTTP/1.0", b"Host: y"),
        "a blank before the colon": head(b"GET /version HTTP/1.1", host=b"Host : x"),
    },
)
for value in (
    b"x y", b"x\ty", b"x, y", b"x/y", b"x/", b"x?y", b"x#y", b"x@y", b"user:pw@x", b"http://x", b"//x", b"x:y",
    b"x:80:80", b"x:-1", b"x:+80", b"x:0x50", b"x: 80", b"x :80", b"[::1", b"::1]", b"::1", b"[::1]x", b"[]",
    b"[zz]", b"[.]", b"[1]", b"[:]", b"[1.2.3.4]", b"[::1]:y", b"[::1%]", b"[::1]]", b"x\\y", b"\\x", b'"x"', b"<x>",
    b"x{}", b"x|y", b"x^y", b"x`y", b"x%", b"x%2", b"x%zz", b"x\xe9", "é".encode(), b"x\x7f",
):  # fmt: skip
    bad("Host", {f"[{show(value)}]": head(b"GET /version HTTP/1.1", host=b"Host: " + value)})
bad("Host", {"malformed beside an absolute target": head(b"GET http://x/version HTTP/1.1", host=b"Host: x/y")})
bad("Host", {"malformed in 1.0": head(b"GET /version HTTP/1.0", host=b"Host: x y")})

# versions

for value in (
    b"http/1.1", b"Http/1.1", b"HTTP/1.10", b"HTTP/1.01", b"HTTP/01.1", b"HTTP/11", b"HTTP/1", b"HTTP/1.", b"HTTP/.1",
    b"HTTP/", b"HTTP", b"HTTP/1,1", b"HTTP/1.1.1", b"HTTP/1.x", b"HTTP/x.1", b"HTTP/-1.1", b"HTTP/+1.1", b"HTTP/1.1 ",
    b"HTTP/1.1\t", b"HTTP/1.1x", b"HTTP/1.1 x", b"HTTP/ 1.1", b"HTTP /1.1", b"HTTP\\1.1", b"HTTPS/1.1", b"XTTP/1.1",
    b"ICY/1.1", b"RTSP/1.0", b"HTTP/1.\xb9", b"HTTP/\xd9\xa1.\xd9\xa1", b"HTTP/1.1HTTP/1.1", b'"HTTP/1.1"', b"1.1",
):  # fmt: skip
    bad("version", {f"[{show(value)}]": head(b"GET /version " + value)})
bad(
    "version",
    {
        "0.9": head(b"GET /version HTTP/0.9"),
        "2.0": head(b"GET /version HTTP/2.0"),
        "3.0": head(b"GET /version HTTP/3.0"),
        "9.9": head(b"GET /version HTTP/9.9"),
        "0.0": head(b"GET /version HTTP/0.0"),
    },
    505,
)
# RFC 9110 2.5 would take it for 1.1; decisions/0011 takes what is plainly 1.1.
bad("version", {"1.2": head(b"GET /version HTTP/1.2"), "1.9": head(b"GET /version HTTP/1.9")}, 400, 505)
bad("version", {"HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"}, 400, 505)
bad("version", {"HTTP/0.9 with an empty line": b"GET /version\r\n\r\n", "0.9, with Host": head(b"GET /version")})

# request lines

bad(
    "line",
    {
        "a leading space": head(b" GET /version HTTP/1.1"),
        "a leading tab": head(b"\tGET /version HTTP/1.1"),
        "two spaces after the method": head(b"GET  /version HTTP/1.1"),
        "two spaces after the target": head(b"GET /version  HTTP/1.1"),
        "tabs": head(b"GET\t/version\tHTTP/1.1"),
        "a tab after the method": head(b"GET\t/version HTTP/1.1"),
        "a tab after the target": head(b"GET /version\tHTTP/1.1"),
        "space and tab": head(b"GET \t/version HTTP/1.1"),
        "no-break spaces": head(b"GET\xa0/version\xa0HTTP/1.1"),
        "no target": head(b"GET HTTP/1.1"),
        "an empty target": head(b"GET  HTTP/1.1"),
        "no method": head(b"/version HTTP/1.1"),
        "an empty method": head(b" /version HTTP/1.1"),
        "only a method": head(b"GET"),
        "only a version": head(b"HTTP/1.1"),
        "no space after the method": head(b"GET/version HTTP/1.1"),
        "no space after the target": head(b"GET /versionHTTP/1.1"),
        "four words": head(b"GET /version /version HTTP/1.1"),
        "no line": EOL + EOL + head(b"", host=b"Host: x"),
        "two empty lines first": EOL + EOL + get(),
        "three empty lines first": EOL + EOL + EOL + get(),
        "an empty line with a blank first": b" " + EOL + get(),
        "an answer": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x01" * 32 + b"\r\n\r\n",
        "PROXY": b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n" + get(),
        "a byte order mark": b"\xef\xbb\xbf" + get(),
        "fields first": b"Host: x\r\n" + get(),
    },
)
for value in (b"G(T", b"GET:", b"GET,", b"G@T", b'"GET"', b"G\xc9T", "GÉT".encode(), b"[GET]", b"GET{}", b"GET\x7f"):
    bad("line", {f"method [{show(value)}]": head(value + b" /version HTTP/1.1")})

# targets

for value in (
    b"/version#x", b"/version#", b"/version?a#b", b"/version?a#", b"/version?#", b"http://x/version?a#b",
    b"http://x/version#b", b"http://x#b",
):  # fmt: skip
    bad("fragment", {f"[{show(value)}]": target(value)})
for value in (
    b"/ver sion", b"/version?a b", b"/version ?a", b"/version\t", b"/v\xc3\xa9rsion", b"/v\xe9rsion",
    b"/version?\xc3\xa9", b"/version?\xff", b"/version\x85", b"\xef\xbc\x8fversion", b"version", b"?a", b"a=b", b"*",
    b"**", b"*/version", b"x", b"x:80", b"x:80/version", b"[::1]:80", b"http:///version", b"http://", b"http:/version",
    b"http:version", b"http:", b"http//x/version", b"://x/version", b"ftp://x/version", b"file:///etc/passwd",
    b"ws://x/version", b"javascript:1", b"data:,x", b"http+unix://x/version", b"h\xc3\xb6st", b"\\version", b"..",
    b"../version", b"./version", b";/version", b"@x/version", b"@169.254.169.254/version", b":80/version",
):  # fmt: skip
    bad("target", {f"[{show(value)}]": target(value)})
for value in (
    b"http://:80/version", b"http://:/version", b"http://?version", b"http://user@x/version",
    b"http://user:pw@x/version", b"http://x@y@z/version", b"http://@x/version", b"http://x:y/version",
    b"http://x:80:80/version", b"http://x:-80/version", b"http://[::1/version", b"http://::1/version",
    b"http://[zz]/version", b"http://[.]/version", b"http://[]/version", b"http://x%/version", b"http://x%zz/version",
    b"http://x\\y/version", b"http://x\\@y/version", b"http://x y/version", b"http://\xc3\xa9/version",
    b"http://x{}/version", b'http://"x"/version', b"http://<x>/version", b"http://x|y/version", b"http://x^/version",
    b"https://:443/version", b"https:///version", b"HTTP:///version",
):  # fmt: skip
    bad("absolute", {f"[{show(value)}]": target(value)})
bad(
    "CONNECT",
    {
        "a host": head(b"CONNECT x:443 HTTP/1.1"),
        "loopback": head(b"CONNECT 127.0.0.1:22 HTTP/1.1", host=b"Host: 127.0.0.1:22"),
        "an address in brackets": head(b"CONNECT [::1]:443 HTTP/1.1"),
        "no port": head(b"CONNECT x HTTP/1.1"),
        "1.0": head(b"CONNECT x:443 HTTP/1.0"),
    },
    400, 405, 501,
)  # fmt: skip

# chunks

for value in (
    b"", b"0x5", b"0X5", b"-5", b"+5", b"5 ", b" 5", b"5\t", b"\t5", b"5;", b"5;ext", b"5;ext=1", b"5 ;ext", b"5; ext",
    b'5;ext="x"', b'5;ext="a\r\nb"', b"5;ext\x00", b"5;\xff", b"g", b"5g", b"5,5", b"5 5", b"5_0", b"5.0", b"0x", b"x5",
    b"five", b'"5"', b"5h", b"#5", b"5\x00", b"\x005", b"5\x0b", b"5\x0c", b"5\xa0", b"\xef\xbc\x95", b"\xb5", b"\\x05",
    b"5\r", b"5\n", b"5\r\n ", b"-0", b"1e1;", b"ffffffffffffffff5", b"10000000000000005", b"80000000000000005",
    b"f" * 17, b"f" * 5000, b"5;" + b"a" * 5000,
):  # fmt: skip
    short = f"{show(value)[:24]}{'' if len(value) < 20 else f', {len(value)} bytes'}"
    bad("chunk size", {f"[{short}]": chunks(value + b"\r\nhello\r\n" + END)})
bad(
    "chunk",
    {
        "LF after the size": chunks(b"5\nhello\r\n" + END),
        "CR after the size": chunks(b"5\rhello\r\n" + END),
        "nothing after the size": chunks(b"5hello\r\n" + END),
        "LF after the data": chunks(b"5\r\nhello\n" + END),
        "CR after the data": chunks(b"5\r\nhello\r" + END),
        "nothing after the data": chunks(b"5\r\nhello" + END),
        "CR CR LF after the data": chunks(b"5\r\nhello\r\r\n" + END),
        "LF CR after the data": chunks(b"5\r\nhello\n\r" + END),
        "longer than it says": chunks(b"3\r\nhello\r\n" + END),
        "longer by 2": chunks(b"5\r\nhelloXX" + END),
        "shorter than it says": chunks(b"7\r\nhello\r\n" + END),
        "shorter by 1": chunks(b"6\r\nhello\r\n" + END + b"X"),
        "an empty line between": chunks(b"5\r\nhello\r\n\r\n" + END),
        "an empty line first": chunks(EOL + HELLO),
        "LF everywhere": chunks(HELLO.replace(b"\r", b"")),
        "no chunks at all": chunks(b'{"model": "base"}\r\n'),
        "a request for a size": chunks(SMUGGLED),
        "the second is bad": chunks(b"5\r\nhello\r\nxx\r\nhello\r\n" + END),
        "an extension on the second": chunks(b"5\r\nhello\r\n5;x\r\nhello\r\n" + END),
        "NUL between": chunks(b"5\r\nhello\r\n\x00" + END),
    },
)
bad(
    "last chunk",
    {
        "LF": chunks(b"5\r\nhello\r\n0\n\n"),
        "LF, CRLF": chunks(b"5\r\nhello\r\n0\n\r\n"),
        "CRLF, LF": chunks(b"5\r\nhello\r\n0\r\n\n"),
        "CR CR LF": chunks(b"5\r\nhello\r\n0\r\r\n\r\n"),
        "CRLF, CR": chunks(b"5\r\nhello\r\n0\r\n\rX"),
        "an extension": chunks(b"5\r\nhello\r\n0;x\r\n\r\n"),
        "a blank": chunks(b"5\r\nhello\r\n0 \r\n\r\n"),
        "a hexadecimal 0": chunks(b"5\r\nhello\r\n0x0\r\n\r\n"),
        "minus 0": chunks(b"5\r\nhello\r\n-0\r\n\r\n"),
        "with data": chunks(b"5\r\nhello\r\n0\r\nhello\r\n\r\n"),
        "a request without its empty line": chunks(b"5\r\nhello\r\n0\r\n" + SMUGGLED),
    },
)
for value in (
    b"A", b"A b", b"A : b", b" A: b", b"\tA: b", b": b", b"A: b\r\n c", b"A: b\x00", b"A\x00: b", b"A: b\x01",
    b"A: b\nB: c", b"A: b\rB: c", b"A\xe9: b", b"A(: b", b"A\r\n: b",
):  # fmt: skip
    bad("trailer", {f"[{show(value)}]": chunks(b"5\r\nhello\r\n0\r\n" + value + b"\r\n\r\n")})
bad("trailer", {"20000 bytes": chunks(b"5\r\nhello\r\n0\r\n" + b"A: b\r\n" * 3334 + b"\r\n")}, 400, 431)
bad("trailer", {"one of 20000 bytes": chunks(b"5\r\nhello\r\n0\r\nA: " + b"b" * 20000 + b"\r\n\r\n")}, 400, 431)

# expectations

for value in (
    b"200-ok", b"100-continued", b"100", b"continue", b"100-continue, 200-ok", b"200-ok, 100-continue",
    b"100-continue=1", b"x",
):  # fmt: skip
    bad("Expect", {f"[{show(value)}]": post(b"Expect: " + value, b"Content-Length: 5")}, 417)
for value in (b"100 continue", b"100-continue;q=1", b'"100-continue"', b"100-continue 100-continue"):
    bad("Expect", {f"[{show(value)}]": post(b"Expect: " + value, b"Content-Length: 5")}, 400, 417)
bad("Expect", {"two": post(b"Expect: 100-continue", b"Expect: 200-ok", b"Content-Length: 5")}, 400, 417)
bad("Expect", {"in 1.0": head(b"GET /version HTTP/1.0", b"Expect: 100-continue\x00")})

# too much

bad(
    "too large a head",
    {
        "129 fields": head(b"GET /version HTTP/1.1", *(b"A%d: b" % number for number in range(128))),
        "5000 fields": head(b"GET /version HTTP/1.1", *(b"A: b",) * 5000),
        "a long value": get(b"A: " + b"b" * 66_000),
        "a long name": get(b"A" * 66_000 + b": b"),
        "many long values": get(*(b"A: " + b"b" * 1000,) * 100),
        "no end of a value": get(b"A: " + b"b" * 70_000)[:-4],
        "no end of fields": get(*(b"A: b",) * 20_000)[:-2],
        "Host": head(b"GET /version HTTP/1.1", host=b"Host: " + b"x" * 66_000),
    },
    431,
)
bad(
    "too large a line",
    {
        "a long target": target(b"/version?" + b"a" * 66_000),
        "a long target without end": b"GET /" + b"a" * 70_000,
        "a long host in the target": target(b"http://" + b"a" * 66_000 + b"/version"),
    },
    414, 431,
)  # fmt: skip
bad("too large a line", {"a long method": head(b"G" * 66_000 + b" /version HTTP/1.1")}, 400, 431, 501)
bad(
    "too large a body",
    {
        "one byte": post(b"Content-Length: %d" % (MAX_BODY + 1), body=b""),
        "one byte, begun": post(b"Content-Length: %d" % (MAX_BODY + 1), body=b"hello"),
        "18 digits": post(b"Content-Length: " + b"9" * 18, body=b""),
        "4 GiB": post(b"Content-Length: 4294967301"),
        "to be continued": post(b"Expect: 100-continue", b"Content-Length: %d" % (MAX_BODY + 1), body=b""),
        "one chunk": chunks(b"%x\r\n" % (MAX_BODY + 1) + b"a" * (MAX_BODY + 1) + b"\r\n" + END),
        "many chunks": chunks((b"64\r\n" + b"a" * 100 + b"\r\n") * 11 + END),
        "a chunk without end": chunks(b"fffffff\r\n" + b"a" * (MAX_BODY + 1)),
        "small chunks": chunks(b"1\r\na\r\n" * (MAX_BODY + 1) + END),
    },
    413,
)

# paths and methods

for value in (
    b"/", b"//", b"/version/", b"/version/.", b"/version/..", b"/./version", b"/x/../version", b"/../version",
    b"/..", b"//version", b"/version//", b"///version", b"//x/version", b"/http://x/version", b"/%76ersion",
    b"/version%00", b"/version%2f", b"/version%20", b"/version%23", b"/version%3f", b"/version%0d%0aA:b",
    b"/%2e%2e/version", b"/%2e/version", b"/%2E%2E%2Fversion", b"/..%2fversion", b"/x/..;/version", b"/version;",
    b"/version;x=1", b"/VERSION", b"/Version", b"/v1", b"/v1/", b"/v1/completions/", b"/v1%2fcompletions",
    b"/v1%2Fcompletions", b"/v1/./completions", b"/v1//completions", b"/v1/x/../completions", b"/v1/completions/..",
    b"/v1/completions%20", b"/v1/completions%3fx", b"/v1/completions;x", b"/v1/responses/..", b"/v1/responses/.",
    b"/v1/responses/%2e%2e", b"/v1/responses/a%2fb", b"/v1/responses/..%2f..%2fadmin", b"/v1/responses/",
    b"/v1/responses//", b"/v1/responses/resp_1/", b"/v1/responses/resp_1/..", b"/v1/responses/resp_1/../resp_2",
    b"/v1/responses/resp_1%00", b"/v1/responses/..;/", b"/health/../version", b"/metrics/../version",
    b"/v1/models/../../version", b"/health/", b"//health", b"/metrics%2f..%2fversion", b"/v1/models%2f",
    b"/admin", b"/docs", b"/openapi.json", b"/server_info", b"/reset_prefix_cache", b"/sleep", b"/wake_up",
):  # fmt: skip
    add(REFUSED, "404", show(value), target(value), 404)
for value in (
    b"/v1/cluster/../completions", b"/v1/cluster/../../version", b"/v1/cluster%2fstatus", b"/v1/cluster//status",
    b"/v1/cluster/../../metrics", b"/v1/cluster/./status", b"/v1/cluster/%2e%2e/models", b"/v1/clusters",
    b"/v1/system/../../version", b"/v1/load_lora_adapter/../completions",
):  # fmt: skip
    line = b"GET " + value + b" HTTP/1.1"
    add(REFUSED, "404 of ours", show(value), head(line, host=b"Host: localhost"), 404)
for method, path in (
    (b"POST", b"/version"), (b"PUT", b"/version"), (b"DELETE", b"/version"), (b"PATCH", b"/version"),
    (b"OPTIONS", b"/version"), (b"TRACE", b"/version"), (b"get", b"/version"), (b"Get", b"/version"),
    (b"GETT", b"/version"), (b"PROPFIND", b"/version"), (b"X", b"/version"), (b"GET", b"/v1/completions"),
    (b"HEAD", b"/v1/completions"), (b"PUT", b"/v1/completions"), (b"TRACE", b"/v1/completions"),
    (b"OPTIONS", b"/v1/chat/completions"), (b"post", b"/v1/completions"), (b"DELETE", b"/v1/responses/resp_1"),
    (b"POST", b"/v1/responses/resp_1"), (b"GET", b"/v1/responses/resp_1/cancel"), (b"GET", b"/v1/responses"),
    (b"POST", b"http://x/version"), (b"POST", b"/version?a"),
):  # fmt: skip
    add(REFUSED, "405", show(method + b" " + path), head(method + b" " + path + b" HTTP/1.1"), 405)
add(REFUSED, "405", "with its body", head(b"POST /version HTTP/1.1", b"Content-Length: 5") + b"hello", 405)
add(REFUSED, "404", "with its body", head(b"POST /x HTTP/1.1", b"Content-Length: 5") + b"hello", 404)
add(REFUSED, "404", "a request for a body", head(b"POST /x HTTP/1.1",
b"Content-Length: %d" % len(SMUGGLED)) + SMUGGLED, 404)
add(REFUSED, "OPTIONS", "asterisk", head(b"OPTIONS * HTTP/1.1"), 400, 404, 405, 501)
add(REFUSED, "OPTIONS", "an absolute one without path", head(b"OPTIONS http://x HTTP/1.1"), 400, 404, 405, 501)
add(REFUSED, "TRACE", "asterisk", head(b"TRACE * HTTP/1.1"), 400, 404, 405, 501)
add(REFUSED, "CONNECT", "a path", head(b"CONNECT /version HTTP/1.1"), 400, 405, 501)

SHORT = {name: form for name, form in MALFORMED.items() if len(form.data) <= 400}


def forms(given: dict[str, Form]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("form", list(given.values()), ids=list(given))


def check_error(answer: Message, form: Form) -> None:
    assert answer.status in form.allowed, (form.data[:300], answer)
    error = json.loads(answer.body)["error"]
    assert (error["code"], bool(error["message"])) == (answer.status, True)


@pytest.mark.parametrize(
    "request_",
    [
        get(), post(b"Content-Length: 5"), chunks(HELLO), target(b"/version?a=b"), target(b"http://x/version"),
        target(b"HTTP://X:80/version"), EOL + get(), head(b"GET /version HTTP/1.0", host=b""),
        post(b"Transfer-Encoding:\tchunked", body=HELLO), post(b"Transfer-Encoding:CHUNKED  ", body=HELLO),
        post(b"Content-Length:5 \t"), post(b"Content-Length: 005"), get(b"A:"), get(b"A: \xe9"),
        get(b"!#$%&'*+-.^_`|~: b"),
        head(b"GET /version HTTP/1.1", host=b"Host: [::1]:80"), chunks(b"00005\r\nhello\r\n000\r\n\r\n"),
        chunks(b"5\r\nhello\r\n0\r\nContent-Length: 50\r\nHost: y\r\n\r\n"),
        post(b"Connection: Host, Content-Length", b"Content-Length: 5"),
        head(b"GET /version HTTP/1.1", *(b"A: b",) * 127), get(b"Content-Length: %d" % len(SMUGGLED)) + SMUGGLED,
        head(b"POST /v1/completions HTTP/1.1"), get(b"Transfer-Encoding: chunked") + IN_CHUNKS,
    ],
    ids=lambda data: show(data)[:60],
)  # fmt: skip
async def test_what_is_in_order_arrives_once_and_well_formed(pair: Pair, request_: bytes) -> None:
    """Otherwise the tests below would prove nothing. A body that looks like a request stays a body (CL.0)."""
    async with pair.balancer.connection() as (_, writer):
        writer.write(request_)
        await until(lambda: pair.worker.connections and not requests_in(bytes(pair.worker.connections[0]))[1])
    (seen,) = pair.worker.requests
    body = b"hello" if b"hello" in request_ else SMUGGLED if SMUGGLED in request_ else b""
    assert seen.body == body
    assert seen.all(b"host") == [b"127.0.0.1:%d" % pair.worker.port]
    assert b"Connection" not in pair.worker.connections[0]


@forms(MALFORMED)
async def test_it_is_refused_and_nothing_behind_it_is_read(pair: Pair, form: Form) -> None:
    for data in (form.data, form.data + SMUGGLED):
        check_error(await pair.refusal(data), form)
    await pair.saw_nothing()


@forms({name: form for number, (name, form) in enumerate(SHORT.items()) if number % 3 == 0 or "empty lines" in name})
async def test_byte_by_byte_it_gets_the_same_verdict(pair: Pair, form: Form) -> None:
    check_error(await pair.bytewise(form.data), form)
    await pair.saw_nothing()


@forms({name: form for number, (name, form) in enumerate(SHORT.items()) if number % 8 == 0})
async def test_behind_a_request_in_order_it_is_refused_too(pair: Pair, form: Form) -> None:
    async with pair.balancer.connection() as (reader, writer):
        writer.write(PLAIN + form.data + SMUGGLED)
        assert (await read_answer(reader)).status == 200
        check_error(await only_answer(reader, form.data), form)
    assert pair.worker.targets == [b"/version?plain"]


@forms(REFUSED)
async def test_it_is_not_on_offer_and_the_connection_goes_on(pair: Pair, form: Form) -> None:
    async with pair.balancer.connection() as (reader, writer):
        writer.write(form.data)
        answer = await read_answer(reader, bodiless=form.data.startswith(b"HEAD"))
        assert answer.status in form.allowed, (form.data, answer)
        if answer.status == 405:
            assert re.fullmatch(rb"[A-Z]+(, [A-Z]+)*", answer.all(b"allow")[0])
        assert pair.worker.connections == []
        if answer.closes and form.allowed == {400, 404, 405, 501}:
            return
        assert not answer.closes
        writer.write(PLAIN)
        assert (await read_answer(reader)).status == 200
    assert pair.worker.targets == [b"/version?plain"]


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


# smuggling, as published

PAIRS = {
    "CL.TE, a whole request": post(
        b"Content-Length: %d" % (len(END) + len(SMUGGLED)), b"Transfer-Encoding: chunked", body=END + SMUGGLED
    ),
    "TE.CL, a whole request": post(
        b"Content-Length: 4", b"Transfer-Encoding: chunked", body=IN_CHUNKS
    ),
    "TE.TE, a hidden coding": post(
        b"Transfer-Encoding: chunked", b"Transfer-encoding: cow", b"Content-Length: 4",
        body=IN_CHUNKS,
    ),
    "TE.0": head(b"OPTIONS / HTTP/1.1", b"Transfer-Encoding: xchunked") + IN_CHUNKS,
    "CL.CL": post(b"Content-Length: 0", b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED),
    "a list of lengths": post(b"Content-Length: 0, %d" % len(SMUGGLED), body=SMUGGLED),
    "a request in a field": get(b"A: b\n\nGET /version?smuggled HTTP/1.1\nHost: x\n"),
    "CR CR in a field": get(b"A: b\r\rGET /version?smuggled HTTP/1.1\rHost: x\r"),
    "a request in the target": target(b"/version HTTP/1.1\r\nHost: x\r\n\r\nGET /version?smuggled").replace(
        b"GET /version HTTP/1.1", b"GET /version HTTP/1.1 x", 1
    ),
    "a chunk extension with an LF": chunks(b"5;\nhello\r\n0\r\n\r\n" + SMUGGLED),
    "a chunk extension with a size": chunks(b"1;x\n2b\r\nA\r\n0\r\n\r\n" + SMUGGLED),
    "a chunk size of 2 to the 64th": chunks(b"10000000000000000\r\n\r\n" + SMUGGLED),
    "a chunk's end overwritten": chunks(b"5\r\nhelloXX0\r\n\r\n" + SMUGGLED),
    "a trailer with a request": chunks(b"0\r\nA: b\r\n " + SMUGGLED),
    "a trailer with a bare LF": chunks(b"0\r\nA: b\n\r\n" + SMUGGLED),
    "a GET with two lengths": get(b"Content-Length: %d" % len(SMUGGLED), b"Content-Length: 0") + SMUGGLED,
    "0.CL": get(b"Content-Length : %d" % len(SMUGGLED)) + SMUGGLED,
    "a length in a folded line": get(b"Content-Length:\r\n %d" % len(SMUGGLED)) + SMUGGLED,
    "HTTP/0.9 in front": b"GET /version\r\n" + SMUGGLED,
    "an expectation hidden": post(b"Expect: y 100-continue", b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED),
    "an expectation repeated": post(
        b"Expect: 100-continue", b"Expect: 100-continue", b"Content-Length: 0",
        b"Content-Length: %d" % len(SMUGGLED), body=SMUGGLED
    ),
    "HTTP/1.0 with chunks": head(
        b"POST /v1/completions HTTP/1.0", b"Connection: keep-alive", b"Transfer-Encoding: chunked"
    ) + END,
    "two hosts": get(b"Host: y"),
    "a NUL before the coding": post(b"Content-Length: 5", b"\x00Transfer-Encoding: chunked", body=HELLO),
    "404 in front, without its body": head(b"POST /x HTTP/1.1", b"Content-Length: 500"),
    "404 in front, with chunks": head(b"POST /x HTTP/1.1", b"Transfer-Encoding: chunked") + END,
    "405 in front, without its body": head(b"POST /version HTTP/1.1", b"Content-Length: 500"),
    "413 in front": post(b"Content-Length: 4000", body=b""),
}  # fmt: skip


@pytest.mark.parametrize("request_", list(PAIRS.values()), ids=list(PAIRS))
async def test_a_smuggled_request_has_no_answer_and_reaches_nobody(pair: Pair, request_: bytes) -> None:
    answer = await pair.refusal(request_ + SMUGGLED)
    assert 400 <= answer.status < 500, answer
    await pair.saw_nothing()


async def test_an_upgrade_to_h2c_goes_no_further(pair: Pair) -> None:
    lines = b"Connection: Upgrade, HTTP2-Settings, close", b"Upgrade: h2c", b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA"
    (answer,) = await pair.ask(get(*lines))
    (seen,) = pair.worker.requests
    assert (answer.status, seen.all(b"upgrade"), seen.all(b"connection")) == (200, [], [])
    assert seen.all(b"http2-settings") == []


async def test_an_upgrade_in_http_1_0_is_passed_over(pair: Pair) -> None:
    """RFC 9110 7.8: a server MUST ignore it."""
    lines = (
        b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )  # fmt: skip
    await pair.ask(head(b"GET /v1/realtime HTTP/1.0", *lines))
    for seen in pair.worker.requests:
        assert (seen.all(b"upgrade"), seen.all(b"connection")) == ([], [])


async def test_an_expectation_in_http_1_0_is_not_met(pair: Pair) -> None:
    """RFC 9110 10.1.1: no 100 is sent to such a client."""
    async with pair.balancer.connection() as (reader, writer):
        writer.write(head(b"POST /v1/completions HTTP/1.0", b"Expect: 100-continue", b"Content-Length: 5"))
        await until(lambda: pair.balancer.parts.server.connections == 1)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.05)
        writer.write(b"hello")
        assert (await read_answer(reader)).status == 200
    assert pair.worker.requests[0].all(b"expect") == []


async def test_one_empty_line_before_a_request_is_passed_over_however_it_comes(pair: Pair) -> None:
    closing = get(b"Connection: close")
    assert [answer.status for answer in await pair.ask(EOL + closing)] == [200]
    assert (await pair.bytewise(EOL + closing)).status == 200


# no request keeps the others waiting


@pytest.mark.parametrize(
    "request_",
    [
        get(b"A:" + b" " * 12_000 + b"\x01"), get(b"A:" + b"\t" * 12_000 + b"\x7f"),
        get(b"Content-Length:" + b" " * 12_000 + b"\x01"), get(*(b"A:" + b" " * 3000 + b"\x01",) * 15),
        get(b"A:" + b" " * 12_000), get(b"A: " + b"b " * 30_000 + b"\x01"), get(b"A" * 60_000 + b"\x01: b"),
        get(b"Host:" + b" " * 12_000 + b"y z"), get(b"Connection: " + b"," * 60_000 + b"\x01"),
        target(b"/" + b"a" * 60_000 + b"\x01"), target(b"http://" + b"a%" * 30_000 + b"@/"),
        chunks(b"5" + b" " * 4000 + b"\x01"), chunks(b"0\r\nA:" + b" " * 15_000 + b"\x01\r\n\r\n"),
    ],
    ids=lambda data: show(re.sub(rb"(.)\1{9,}|(..)\2{9,}", rb"\1\2...", data.split(b"Host: x", 1)[-1]))[:50],
)  # fmt: skip
async def test_its_verdict_takes_no_time(pair: Pair, request_: bytes) -> None:
    began = time.monotonic()
    async with pair.balancer.connection() as (reader, writer):
        writer.write(request_)
        await asyncio.wait_for(reader.readuntil(EOL), 30)
    assert time.monotonic() - began < 0.3


# in time


async def test_a_head_that_does_not_come_is_given_up(start_pair: StartPair) -> None:
    pair = await start_pair(head_timeout=0.2)
    (answer,) = await pair.ask(get()[:-2])
    assert (answer.status, answer.closes) == (408, True)
    await pair.saw_nothing()


async def test_half_a_request_line_is_given_up(start_pair: StartPair) -> None:
    pair = await start_pair(head_timeout=0.2)
    (answer,) = await pair.ask(b"GET /version\r\n")
    assert (answer.status, answer.closes) == (408, True)
    await pair.saw_nothing()


async def test_a_second_head_that_does_not_come_is_given_up(start_pair: StartPair) -> None:
    pair = await start_pair(head_timeout=0.2)
    first, second = await pair.ask(PLAIN + get()[:-2])
    assert (first.status, second.status, second.closes) == (200, 408, True)
    assert pair.worker.targets == [b"/version?plain"]


async def drip(balancer: Balanced, beginning: bytes, piece: bytes, seconds: float) -> bytes | None:
    """What comes back while one ``piece`` after the other is sent; None if the connection is open all the time."""
    got = b""
    async with balancer.connection() as (reader, writer):
        writer.write(beginning)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                data = await asyncio.wait_for(reader.read(65536), 0.03)
            except TimeoutError:
                writer.write(piece)
                continue
            except ConnectionError:
                return got
            if not data:
                return got
            got += data
    return None


@pytest.mark.parametrize("piece", [b"a", b"A: b\r\n"])
async def test_a_head_that_trickles_in_is_given_up(start_pair: StartPair, piece: bytes) -> None:
    pair = await start_pair(head_timeout=0.2)
    got = await drip(pair.balancer, b"GET /version HTTP/1.1\r\nHost: x\r\n", piece, 3)
    assert got is not None, "it is still waiting"
    (answer,) = answers_in(got)
    assert answer.status == 408
    await pair.saw_nothing()


async def test_empty_lines_keep_no_connection_open(start_pair: StartPair) -> None:
    """One is passed over; a second is no request, and time does not begin anew with each."""
    pair = await start_pair(head_timeout=0.2)
    assert await drip(pair.balancer, b"", EOL, 3) is not None, "it is still waiting"
    await pair.saw_nothing()


STALLED = {
    "nothing of a length": post(b"Content-Length: 5", body=b""),
    "half of a length": post(b"Content-Length: 5", body=b"he"),
    "nothing of the chunks": chunks(b""),
    "half a chunk size": chunks(b"5"),
    "half a chunk": chunks(b"5\r\nhe"),
    "a chunk without its end": chunks(b"5\r\nhello"),
    "no last chunk": chunks(b"5\r\nhello\r\n"),
    "half the last chunk": chunks(b"5\r\nhello\r\n0\r\n"),
    "half a trailer": chunks(b"5\r\nhello\r\n0\r\nA: b"),
    "half of a GET's": get(b"Content-Length: 5") + b"he",
}


@pytest.mark.parametrize("request_", list(STALLED.values()), ids=list(STALLED))
async def test_a_body_that_stalls_is_given_up(start_pair: StartPair, request_: bytes) -> None:
    pair = await start_pair(body_timeout=0.2)
    (answer,) = await pair.ask(request_)
    assert (answer.status, answer.closes) == (408, True)
    await pair.saw_nothing()


async def test_a_client_that_is_told_to_continue_and_does_not_is_given_up(start_pair: StartPair) -> None:
    pair = await start_pair(body_timeout=0.2)
    first, second = await pair.ask(post(b"Expect: 100-continue", b"Content-Length: 5", body=b""))
    assert (first.status, second.status, second.closes) == (100, 408, True)
    await pair.saw_nothing()


async def test_a_connection_without_a_request_is_closed(start_pair: StartPair) -> None:
    pair = await start_pair(head_timeout=0.2)
    try:
        assert await pair.balancer.raw(b"") == b""
    except ConnectionResetError:
        pass
    await pair.saw_nothing()


async def test_no_second_answer_is_written_into_one_that_has_begun(start_pair: StartPair) -> None:
    """The worker answers before the large upload is complete; then the client stalls."""
    begun = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n"
    pair = await start_pair(body_timeout=0.2)

    async def early(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(begun + b"half")
        while await reader.read(65536):
            pass
        writer.close()

    server = await asyncio.start_server(early, sock=listening())
    try:
        pair.balancer.push(spec(port=server.sockets[0].getsockname()[1]))
        got = b""
        async with pair.balancer.connection() as (reader, writer):
            writer.write(post(b"Content-Length: 3000000", body=b"a" * 2_000_000))
            with contextlib.suppress(ConnectionError):
                while data := await asyncio.wait_for(reader.read(65536), DEADLINE_S):
                    got += data
    finally:
        server.close()
    assert got.startswith(b"HTTP/1.1 200")
    assert got.count(b"HTTP/1.1") == 1, got


# whatever is done to a head

BASES = (
    get(b"Accept: */*"),
    target(b"/version?a=b&c=d"),
    target(b"http://x:80/version?a"),
    head(b"GET /version HTTP/1.0", b"Connection: keep-alive"),
    post(b"Content-Type: application/json", b"Content-Length: 17", body=b'{"model": "base"}'),
    post(b"Content-Length: 5", b"Connection: keep-alive", b"Authorization: Bearer x"),
    chunks(HELLO),
    post(b"Host2: y", b"Transfer-Encoding: chunked", b"X-Forwarded-For: 1.2.3.4", body=HELLO),
)
SPLINTERS = (
    b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b": ", b"#", b"?", b"%", b",", b";", b"@", b"\x7f", b"\xff",
    b"\r\n\r\n", b"\r\n ", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", b"Content-Length: 0\r\n",
    b"Host: y\r\n", b"Expect: x\r\n", b"Connection: host, content-length\r\n", b"Upgrade: websocket\r\n", b"chunked",
    b"HTTP/1.1", b"GET ", b"\r\nA: b", b"0", b"-", b"+", b"http://", b"/", b"//", b"..",
)  # fmt: skip

Edit = tuple[str, float, bytes]
edits = st.lists(
    st.tuples(
        st.sampled_from(("insert", "insert", "delete", "replace")),
        st.floats(0, 1, exclude_max=True),
        st.one_of(st.sampled_from(SPLINTERS), st.binary(min_size=1, max_size=2)),
    ),
    min_size=1,
    max_size=3,
)


def mutated(base: bytes, changes: list[Edit]) -> bytes:
    top, body = base[: base.index(b"\r\n\r\n") + 4], base[base.index(b"\r\n\r\n") + 4 :]
    for kind, where, piece in changes:
        at = int(where * len(top))
        top = top[:at] + (b"" if kind == "delete" else piece) + top[at + (kind != "insert") :]
    return top + body


@settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(base=st.sampled_from(BASES), changes=edits)
@example(base=BASES[1], changes=[("insert", 0.3, b"\r\n")])
async def test_a_mutated_request_is_refused_or_arrives_well_formed(
    pair: Pair, base: bytes, changes: list[Edit]
) -> None:
    """NULs follow it, which end whatever has not come to its end: a head, a chunk, and with so many of them a length
    that was announced. So the connection always comes to an end, too."""
    data = mutated(base, changes)
    pair.worker.connections.clear()
    answers = await pair.ask(data + b"\x00" * (MAX_BODY + 1))
    asked = [answer for answer in answers if answer.status == 200]
    assert len(asked) == len(pair.worker.requests) <= 1, (data, answers, pair.worker.connections)
    assert all(answer.status == 200 or 400 <= answer.status <= 505 for answer in answers)
    assert 1 <= len(answers) <= 2
    if answers[0].closes and answers[0].status >= 400:
        assert len(answers) == 1
    for seen in pair.worker.requests:
        assert seen.start[1].partition(b"?")[0] in (b"/version", b"/v1/completions")
        assert seen.all(b"host") == [b"127.0.0.1:%d" % pair.worker.port]
        assert not (seen.all(b"connection") + seen.all(b"upgrade") + seen.all(b"expect"))
