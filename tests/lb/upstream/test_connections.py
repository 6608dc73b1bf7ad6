"""Connections to workers, over real sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import lb.upstream.connections
from lb.protocol.errors import AttemptFailed
from lb.protocol.http1.response import ResponseHead
from lb.upstream.connection import WorkerConnection
from lb.upstream.connections import TcpEndpoint, Upstream
from lbfakes import (
    DEADLINE_S,
    RawWorker,
    Worker,
    closed_port,
    listening,
    raw_answer,
    read_message,
    spec,
    until,
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
        await until(lambda: talker.open == 0, "the end of all connections")


@pytest.fixture
def start_talker(stack: AsyncExitStack) -> StartTalker:
    async def start(say: Callable[[int], bytes | None] = lambda number: OK, greeting: bytes = b"") -> Talker:
        return await stack.enter_async_context(talking(Talker(say, greeting=greeting)))

    return start


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def upstream(clock: Clock) -> Iterator[Upstream]:
    made = Upstream(clock=clock)
    yield made
    made.close()


@pytest.fixture
def trusting(upstream: Upstream, tmp_path: Path) -> ssl.SSLContext:
    """A server's context, for a certificate of 127.0.0.1 that ``upstream`` trusts."""
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            *files,
        ],
        check=True,
        capture_output=True,
    )
    upstream._tls = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return server


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
        await until(lambda: self.told and self.told[-1] in ("end", "failure"), "the end of the answer")


# where a worker is


def test_the_same_address_is_the_same_endpoint(upstream: Upstream) -> None:
    one = upstream.endpoint(spec("instance_0", 8001))
    assert upstream.endpoint(spec("instance_7", 8001, models=(), incarnation=9)) is one
    others = [
        upstream.endpoint(spec("instance_0", 8002)),
        upstream.endpoint(spec("instance_0", 8001, ip="127.0.0.2")),
        upstream.endpoint(spec("instance_0", 8001, host="localhost")),
        upstream.endpoint(spec("instance_0", 8001, scheme="https")),
    ]
    assert len({id(endpoint) for endpoint in [one, *others]}) == 5
    assert len({one, *others}) == 5


@pytest.mark.parametrize(
    ("host", "named"), [("10.0.0.1", b"10.0.0.1:8001"), ("gpu.local", b"gpu.local:8001"), ("::1", b"[::1]:8001")]
)
def test_an_endpoint_is_named_by_host_and_port(upstream: Upstream, host: str, named: bytes) -> None:
    assert where(upstream, 8001, host=host).host_field == named


# connections that are used again


@pytest.mark.parametrize(
    "answer",
    [
        OK,
        CHUNKED,
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 X\r\nContent-Length: 9\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 500 X\r\nContent-Length:2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nCONTENT-LENGTH: 2\r\n\r\nok",
        b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    ],
)
async def test_after_a_complete_answer_the_connection_is_used_again(
    upstream: Upstream, start_talker: StartTalker, answer: bytes
) -> None:
    talker = await start_talker(lambda _: answer)
    answers = {await fetched(upstream, talker.port) for _ in range(4)}
    assert len(answers) == 1
    assert (talker.opened, len(talker.asked), upstream.connections) == (1, 4, 1)


async def test_two_at_once_take_two_connections_and_the_last_one_used_is_used_first(
    upstream: Upstream, start_talker: StartTalker
) -> None:
    talker = await start_talker()
    await asyncio.gather(fetched(upstream, talker.port), fetched(upstream, talker.port))
    assert (talker.opened, upstream.connections) == (2, 2)
    one, other = upstream.idle(where(upstream, talker.port)), upstream.idle(where(upstream, talker.port))
    assert one is not None and other is not None and one is not other
    assert upstream.idle(where(upstream, talker.port)) is None


async def test_connections_to_another_endpoint_are_not_used(upstream: Upstream, start_talker: StartTalker) -> None:
    talker = await start_talker()
    await fetched(upstream, talker.port)
    assert upstream.idle(where(upstream, talker.port, host="localhost")) is None
    assert upstream.idle(where(upstream, talker.port)) is not None


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive, Close\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ],
)
async def test_a_worker_that_wants_to_close_is_let(
    upstream: Upstream, start_talker: StartTalker, answer: bytes
) -> None:
    talker = await start_talker(lambda _: answer)
    for opened in (1, 2):
        assert await fetched(upstream, talker.port) == (200, b"ok")
        assert talker.opened == opened
    await until(lambda: talker.open == 0 and upstream.connections == 0)


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"x",
        CHUNKED + b"\r\n",
        OK + OK,
        b"HTTP/1.1 204 No Content\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nx",
    ],
)
async def test_after_more_than_was_announced_the_connection_is_not_used(
    upstream: Upstream, start_talker: StartTalker, answer: bytes
) -> None:
    talker = await start_talker(lambda number: answer if number == 1 else OK)
    assert (await failed(fetched(upstream, talker.port))).follows.sent
    assert await fetched(upstream, talker.port) == (200, b"ok")
    assert talker.opened == 2
    await until(lambda: talker.open == 1 and upstream.connections == 1)


async def test_a_worker_that_speaks_unasked_is_dropped(upstream: Upstream, start_talker: StartTalker) -> None:
    talker = await start_talker()
    await fetched(upstream, talker.port)
    talker.writers[0].write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    await until(lambda: talker.open == 0 and upstream.connections == 0)
    assert upstream.idle(where(upstream, talker.port)) is None
    assert await fetched(upstream, talker.port) == (200, b"ok")
    assert talker.opened == 2


async def test_a_worker_that_speaks_before_it_is_asked_is_dropped(
    upstream: Upstream, start_talker: StartTalker
) -> None:
    talker = await start_talker(greeting=b"220 ready\r\n")
    connection = await upstream.connect(where(upstream, talker.port))
    await until(lambda: not connection.usable)
    await until(lambda: upstream.connections == 0)


async def test_a_worker_that_speaks_before_it_is_asked_by_tls_is_no_error_of_ours(
    upstream: Upstream, stack: AsyncExitStack, trusting: ssl.SSLContext
) -> None:
    """In TLS 1.2 what it says can come in one piece with the end of the handshake."""
    trusting.maximum_version = ssl.TLSVersion.TLSv1_2

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = trusting.wrap_bio(incoming, outgoing, server_side=True)
        while not (done := handshaken(tls)) or writer.is_closing():
            writer.write(outgoing.read())
            incoming.write(await reader.read(65536))
        if done:
            tls.write(b"220 ready\r\n")
            writer.write(outgoing.read())
        await reader.read()
        writer.close()

    server = await stack.enter_async_context(await asyncio.start_server(greet, sock=listening()))
    endpoint = where(upstream, server.sockets[0].getsockname()[1], scheme="https")
    assert str(await failed(upstream.fetch(endpoint, GET, DEADLINE_S)))
    await until(lambda: upstream.connections == 0)


def handshaken(tls: ssl.SSLObject) -> bool:
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        CHUNKED[:-1],
        CHUNKED[:-5],
        OK[:30],
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n",
        b"",
    ],
)
async def test_an_answer_that_ends_early_is_a_failure(upstream: Upstream, start_raw: StartRaw, answer: bytes) -> None:
    worker = await start_raw(raw_answer(answer))
    assert (await failed(fetched(upstream, worker.port))).follows.sent
    assert upstream.connections == 0
    assert upstream.idle(where(upstream, worker.port)) is None


async def test_a_connection_that_was_closed_meanwhile_is_not_used(
    upstream: Upstream, start_talker: StartTalker
) -> None:
    talker = await start_talker()
    await fetched(upstream, talker.port)
    talker.writers[0].close()
    await until(lambda: upstream.connections == 0)
    assert await fetched(upstream, talker.port) == (200, b"ok")
    assert talker.opened == 2


@pytest.mark.parametrize(("waited", "opened"), [(0.0, 1), (2.9, 1), (3.0, 2), (3.1, 2), (1000.0, 2)])
async def test_a_connection_that_was_idle_for_3_s_is_not_used(
    upstream: Upstream, clock: Clock, start_talker: StartTalker, waited: float, opened: int
) -> None:
    talker = await start_talker()
    await fetched(upstream, talker.port)
    clock.now += waited
    await fetched(upstream, talker.port)
    assert talker.opened == opened
    await until(lambda: talker.open == 1 and upstream.connections == 1)


async def test_being_used_begins_the_3_s_anew(upstream: Upstream, clock: Clock, start_talker: StartTalker) -> None:
    talker = await start_talker()
    for _ in range(4):
        await fetched(upstream, talker.port)
        clock.now += 2.5
    assert talker.opened == 1


async def test_what_was_idle_for_too_long_is_swept_up_and_nothing_else(
    upstream: Upstream, clock: Clock, start_talker: StartTalker
) -> None:
    old, new = await start_talker(), await start_talker()
    await fetched(upstream, old.port)
    clock.now += 2
    await fetched(upstream, new.port)
    busy = await upstream.connect(where(upstream, old.port))
    upstream.sweep()
    assert upstream.connections == 3
    clock.now += 1.5
    upstream.sweep()
    await until(lambda: upstream.connections == 2 and old.open == 1 and new.open == 1)
    clock.now += 100
    upstream.sweep()
    await until(lambda: upstream.connections == 1 and new.open == 0)
    assert busy.usable


async def test_all_are_closed_in_the_end_busy_ones_too(upstream: Upstream, start_talker: StartTalker) -> None:
    talker = await start_talker(lambda number: OK if number == 1 else b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
    await fetched(upstream, talker.port)
    await upstream.connect(where(upstream, talker.port))
    reading = Reading()
    upstream.idle(where(upstream, talker.port)).ask(reading, "GET", GET)
    await until(lambda: reading.body == b"ok")
    upstream.close()
    await until(lambda: talker.open == 0 and upstream.connections == 0)
    assert reading.told == ["head 200", "body"]


# connections that do not come about


async def test_where_nobody_listens_nothing_was_sent(upstream: Upstream) -> None:
    failure = await failed(fetched(upstream, closed_port()))
    assert not failure.follows.sent
    assert upstream.connections == 0


async def test_a_host_that_was_not_resolved_is_not_asked(upstream: Upstream) -> None:
    failure = await failed(upstream.connect(where(upstream, 1, host="gpu.local", ip="")))
    assert not failure.follows.sent
    assert "gpu.local" in str(failure)


async def test_tls_where_none_is_spoken_is_no_connection(upstream: Upstream, start_worker: StartWorker) -> None:
    worker = await start_worker()
    failure = await failed(upstream.connect(where(upstream, worker.port, scheme="https")))
    assert not failure.follows.sent
    assert str(failure).startswith("cannot connect: ")
    assert len(str(failure)) > len("cannot connect: ")
    assert (worker.seen, upstream.connections) == ([], 0)


async def test_tls_of_somebody_unknown_is_no_connection(
    upstream: Upstream, stack: AsyncExitStack, trusting: ssl.SSLContext
) -> None:
    talker = await stack.enter_async_context(talking(Talker(), trusting))
    assert not (
        await failed(upstream.connect(where(upstream, talker.port, scheme="https", host="gpu.local")))
    ).follows.sent
    assert upstream.connections == 0
    assert await upstream.fetch(where(upstream, talker.port, scheme="https"), GET, DEADLINE_S) == (200, b"ok")
    assert await upstream.fetch(where(upstream, talker.port, scheme="https"), GET, DEADLINE_S) == (200, b"ok")
    assert talker.asked == [GET, GET]


async def test_a_handshake_that_never_ends_is_given_up_and_closed(
    upstream: Upstream, start_talker: StartTalker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lb.upstream.connections, "_CONNECT_S", 0.1)
    talker = await start_talker(lambda number: b"")
    failure = await failed(upstream.connect(where(upstream, talker.port, scheme="https")))
    assert not failure.follows.sent
    await until(lambda: talker.opened == 1 and talker.open == 0)
    assert upstream.connections == 0


@dataclass
class Slow:
    """An endpoint that has a connection and does not say so."""

    port: int
    key: object = "slow"
    patience: float | None = None

    async def open(self, make: Callable[[], WorkerConnection]) -> WorkerConnection:
        _, connection = await asyncio.get_running_loop().create_connection(make, "127.0.0.1", self.port)
        await asyncio.Event().wait()
        return connection


async def test_a_connection_that_comes_too_late_is_closed(upstream: Upstream, start_talker: StartTalker) -> None:
    talker = await start_talker()
    failure = await failed(upstream.connect(Slow(talker.port, patience=0.1)))
    assert (failure.follows.sent, str(failure)) == (False, "no connection in 0.1 s")
    await until(lambda: talker.opened == 1 and talker.open == 0)


@pytest.mark.parametrize("turns", range(5))
async def test_a_worker_is_not_to_blame_for_a_time_in_which_we_stood_still(
    upstream: Upstream, start_talker: StartTalker, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    """Longer than a connection may take, at any step of the way to it."""
    monkeypatch.setattr(lb.upstream.connections, "_CONNECT_S", 0.1)
    talker = await start_talker()
    task = asyncio.ensure_future(upstream.connect(where(upstream, talker.port)))
    for _ in range(turns):
        await asyncio.sleep(0)
    time.sleep(0.3)  # noqa: ASYNC251
    (await task).drop()


async def test_a_connection_that_nobody_wants_any_more_is_closed(upstream: Upstream, start_talker: StartTalker) -> None:
    talker = await start_talker()
    task = asyncio.ensure_future(upstream.connect(Slow(talker.port)))
    await until(lambda: talker.opened)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: talker.open == 0)


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("tls", [False, True])
async def test_a_cancelled_connect_leaves_no_connection_open(
    upstream: Upstream, stack: AsyncExitStack, trusting: ssl.SSLContext, turns: int, tls: bool
) -> None:
    talker = await stack.enter_async_context(talking(Talker(), trusting if tls else None))
    endpoint = where(upstream, talker.port, scheme="https" if tls else "http")
    for _ in range(10):
        task = asyncio.ensure_future(upstream.connect(endpoint))
        for _ in range(turns):
            await asyncio.sleep(0)
        if task.cancel():
            with pytest.raises(asyncio.CancelledError):
                await task
        else:
            task.result().drop()
    last = await upstream.connect(endpoint)  # behind all others in the listener's queue
    await until(lambda: upstream.connections == 1 and talker.open == 1)
    last.drop()
    await until(lambda: upstream.connections == 0 and talker.open == 0)


# whole answers


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ([OK], (200, b"ok")),
        ([OK[:20], OK[20:-1], OK[-1:]], (200, b"ok")),
        ([CHUNKED], (200, b"ok")),
        (
            [
                b"HTTP/1.1 404 X\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\n",
                b"o\r\n0",
                b"1\r\nk\r\n0\r\nX: y\r\n\r\n",
            ],
            (404, b"ok"),
        ),
        ([b"HTTP/1.1 200 OK\r\n\r\n", b"o", b"k"], (200, b"ok")),
        ([b"HTTP/1.0 503 Full\r\n\r\nok"], (503, b"ok")),
        ([b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"], (200, b"")),
        ([b"HTTP/1.1 204 No\r\n\r\n"], (204, b"")),
        ([b"HTTP/1.1 304 X\r\nContent-Length: 100\r\n\r\n"], (304, b"")),
        ([b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"], (200, b"")),
        ([b"HTTP/1.1 100 Continue\r\n\r\n" + OK], (200, b"ok")),
        ([b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", b"HTTP/1.1 100 Continue\r\n", b"\r\n", OK], (200, b"ok")),
        ([b"HTTP/1.1 199 X\r\nContent-Length: 5\r\n\r\n" + OK], (200, b"ok")),
        ([b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000], (200, b"x" * 1_000_000)),
        ([b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 1_000_000], (200, b"x" * 1_000_000)),
    ],
)
async def test_an_answer_is_fetched_whole(
    upstream: Upstream, start_raw: StartRaw, answer: list[bytes], expected: tuple[int, bytes]
) -> None:
    worker = await start_raw(raw_answer(*answer))
    assert await fetched(upstream, worker.port) == expected
    assert worker.requests == [GET]


@pytest.mark.parametrize("answer", [OK, CHUNKED, b"HTTP/1.1 103 X\r\nA: b\r\n\r\n" + OK])
async def test_an_answer_is_fetched_byte_by_byte(upstream: Upstream, start_raw: StartRaw, answer: bytes) -> None:
    async def slowly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for byte in answer:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.001)

    worker = await start_raw(slowly)
    assert await fetched(upstream, worker.port) == (200, b"ok")


async def test_any_number_of_interim_answers_is_passed_over(upstream: Upstream, start_talker: StartTalker) -> None:
    talker = await start_talker(lambda _: b"HTTP/1.1 102 X\r\n\r\n" * 3000 + OK)
    assert await fetched(upstream, talker.port) == (200, b"ok")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\r\n\r\n",
        b"220 ready\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 999 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        b"HTTP/1.1 200 OK\r\nX: \x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000,
        b"GET / HTTP/1.1\r\n\r\n",
        b"<html>\r\n\r\n",
    ],
)
async def test_garbage_is_a_failure_that_is_told_in_words(
    upstream: Upstream, start_raw: StartRaw, answer: bytes
) -> None:
    worker = await start_raw(raw_answer(answer))
    failure = await failed(fetched(upstream, worker.port))
    assert failure.follows.sent
    assert str(failure)
    await until(lambda: upstream.connections == 0)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        OK[:-1],
        CHUNKED[:-1],
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nok",
    ],
)
async def test_an_answer_that_takes_too_long_is_given_up(
    upstream: Upstream, start_talker: StartTalker, answer: bytes
) -> None:
    talker = await start_talker(lambda _: answer)
    failure = await failed(fetched(upstream, talker.port, 0.05))
    assert failure.follows.sent
    await until(lambda: talker.open == 0 and upstream.connections == 0)
    assert upstream.idle(where(upstream, talker.port)) is None


async def test_a_fetch_that_is_cancelled_leaves_no_connection(upstream: Upstream, start_talker: StartTalker) -> None:
    talker = await start_talker(lambda _: OK[:-1])
    task = asyncio.ensure_future(fetched(upstream, talker.port))
    await until(lambda: talker.asked)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: talker.open == 0 and upstream.connections == 0)


async def test_an_answer_that_is_too_large_is_given_up(
    upstream: Upstream, start_talker: StartTalker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lb.upstream.connections, "_MOST_TEXT", 1000)
    talker = await start_talker(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 5000)
    assert "too large" in str(await failed(fetched(upstream, talker.port)))
    await until(lambda: talker.open == 0 and upstream.connections == 0)


async def test_an_answer_that_is_too_large_is_given_up_where_it_ends_as_well(
    upstream: Upstream, start_talker: StartTalker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lb.upstream.connections, "_MOST_TEXT", 1000)
    talker = await start_talker(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001)
    assert "too large" in str(await failed(fetched(upstream, talker.port)))
    await until(lambda: talker.open == 0 and upstream.connections == 0)


# what a reader is told


async def asked(
    upstream: Upstream, worker: RawWorker | Talker, reading: Reading, method: str = "GET"
) -> WorkerConnection:
    connection = await upstream.connect(where(upstream, worker.port))
    connection.ask(reading, method, GET)
    return connection


async def test_an_answer_is_told_from_head_to_end(upstream: Upstream, start_talker: StartTalker) -> None:
    reading = Reading()
    connection = await asked(upstream, await start_talker(), reading)
    await reading.over()
    assert (reading.told, reading.body) == (["head 200", "body", "end"], b"ok")
    assert connection.usable


async def test_a_head_alone_has_no_body(upstream: Upstream, start_talker: StartTalker) -> None:
    reading = Reading()
    connection = await asked(upstream, await start_talker(lambda _: OK[:-2]), reading, "HEAD")
    await reading.over()
    assert reading.told == ["head 200", "end"]
    assert connection.usable


async def test_chunks_are_told_as_they_come_to_whom_can_read_them(
    upstream: Upstream, start_talker: StartTalker
) -> None:
    reading = Reading(raw=True)
    connection = await asked(upstream, await start_talker(lambda _: CHUNKED), reading)
    await reading.over()
    assert (reading.told[-1], reading.body) == ("end", b"2\r\nok\r\n0\r\n\r\n")
    assert connection.usable


@pytest.mark.parametrize("when", ["head 200", "body"])
@pytest.mark.parametrize(
    "answer", [OK, CHUNKED, b"HTTP/1.1 200 OK\r\n\r\nok", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"]
)
async def test_a_reader_that_wants_no_more_is_told_nothing_more(
    upstream: Upstream, start_talker: StartTalker, when: str, answer: bytes
) -> None:
    talker, reading = await start_talker(lambda _: answer), Reading()

    def leave(what: str) -> None:
        if what == when:
            reading.left = True
            connection.drop()

    reading.on = leave
    connection = await asked(upstream, talker, reading)
    await until(lambda: talker.open == 0 and upstream.connections == 0)
    assert reading.told[-1] == when
    assert not connection.usable


async def test_a_reader_can_ask_again_at_the_end(upstream: Upstream, start_talker: StartTalker) -> None:
    talker, first, second = await start_talker(), Reading(), Reading()

    def again(what: str) -> None:
        if what == "end":
            connection = upstream.idle(where(upstream, talker.port))
            assert connection is not None
            connection.ask(second, "GET", GET)

    first.on = again
    await asked(upstream, talker, first)
    await second.over()
    assert (second.body, talker.opened) == (b"ok", 1)


@pytest.mark.parametrize("answer", [OK, CHUNKED])
async def test_an_answer_before_the_request_is_complete_ends_the_connection(
    upstream: Upstream, start_talker: StartTalker, answer: bytes
) -> None:
    """The rest of the request would be read as another one."""
    talker, reading = await start_talker(lambda _: answer), Reading()
    connection = await upstream.connect(where(upstream, talker.port))
    connection.ask(reading, "POST", GET, more=True)
    await reading.over()
    assert reading.told[-1] == "end"
    assert not connection.usable
    await until(lambda: talker.open == 0 and upstream.connections == 0)


async def test_a_request_in_pieces_is_sent_whole(upstream: Upstream, start_talker: StartTalker) -> None:
    talker, reading = await start_talker(), Reading()
    connection = await upstream.connect(where(upstream, talker.port))
    head = b"POST / HTTP/1.1\r\nContent-Length: 200003\r\n\r\n"
    connection.ask(reading, "POST", head, b"x" * 100_000, more=True)
    connection.send((b"y" * 100_000,))
    connection.send((b"end",))
    connection.send((), last=True)
    await reading.over()
    assert talker.asked == [head + b"x" * 100_000 + b"y" * 100_000 + b"end"]
    assert connection.usable


async def test_a_tunnel_is_told_until_it_ends(upstream: Upstream, start_raw: StartRaw) -> None:
    worker = await start_raw(
        raw_answer(b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nabc", b"HTTP/1.1 200 OK\r\n\r\n")
    )
    reading = Reading()
    await asked(upstream, worker, reading)
    await reading.over()
    assert (reading.told[0], reading.told[-1], reading.body) == ("head 101", "end", b"abcHTTP/1.1 200 OK\r\n\r\n")


async def test_a_worker_that_reads_nothing_holds_the_sender(upstream: Upstream, stack: AsyncExitStack) -> None:
    go_on = asyncio.Event()

    async def read_later(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        await reader.readexactly(30_000_000)
        writer.write(OK)

    server = await stack.enter_async_context(await asyncio.start_server(read_later, sock=listening(), limit=1000))
    reading = Reading()
    connection = await upstream.connect(where(upstream, server.sockets[0].getsockname()[1]))
    connection.ask(reading, "POST", b"x" * 30_000_000)
    await until(lambda: reading.told == ["writable False"])
    go_on.set()
    await reading.over()
    assert reading.told == ["writable False", "writable True", "head 200", "body", "end"]
    connection.drop()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", b"HTTP/1.1 200 OK\r\n\r\nok"])
async def test_a_connection_that_is_reset_is_a_failure(
    upstream: Upstream, stack: AsyncExitStack, answer: bytes
) -> None:
    reading = Reading()

    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await until(lambda: reading.body)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    server = await stack.enter_async_context(await asyncio.start_server(reset, sock=listening()))
    listener_port = server.sockets[0].getsockname()[1]
    connection = await upstream.connect(where(upstream, listener_port))
    connection.ask(reading, "POST", GET)
    await reading.over()
    assert reading.told[-1] == "failure"
    assert reading.reason
