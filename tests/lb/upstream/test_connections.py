"""Connections to workers, over real sockets: which are used again, and which do not come about."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import AsyncExitStack

import pytest

from fakes import soon
from lb.upstream.connections import Upstream
from lbfakes import (
    DEADLINE_S,
    listening,
    raw_answer,
    spec,
)
from talkers import CHUNKED, GET, OK, Clock, Reading, StartRaw, StartTalker, failed, fetched, where

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
    await soon(lambda: talker.open == 0 and upstream.connections == 0)


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
    await soon(lambda: talker.open == 1 and upstream.connections == 1)


async def test_a_worker_that_speaks_unasked_is_dropped(upstream: Upstream, start_talker: StartTalker) -> None:
    talker = await start_talker()
    await fetched(upstream, talker.port)
    talker.writers[0].write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    await soon(lambda: talker.open == 0 and upstream.connections == 0)
    assert upstream.idle(where(upstream, talker.port)) is None
    assert await fetched(upstream, talker.port) == (200, b"ok")
    assert talker.opened == 2


async def test_a_worker_that_speaks_before_it_is_asked_is_dropped(
    upstream: Upstream, start_talker: StartTalker
) -> None:
    talker = await start_talker(greeting=b"220 ready\r\n")
    connection = await upstream.connect(where(upstream, talker.port))
    await soon(lambda: not connection.usable)
    await soon(lambda: upstream.connections == 0)


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
    await soon(lambda: upstream.connections == 0)


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
    await soon(lambda: upstream.connections == 0)
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
    await soon(lambda: talker.open == 1 and upstream.connections == 1)


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
    await soon(lambda: upstream.connections == 2 and old.open == 1 and new.open == 1)
    clock.now += 100
    upstream.sweep()
    await soon(lambda: upstream.connections == 1 and new.open == 0)
    assert busy.usable


async def test_all_are_closed_in_the_end_busy_ones_too(upstream: Upstream, start_talker: StartTalker) -> None:
    talker = await start_talker(lambda number: OK if number == 1 else b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok")
    await fetched(upstream, talker.port)
    await upstream.connect(where(upstream, talker.port))
    reading = Reading()
    upstream.idle(where(upstream, talker.port)).ask(reading, "GET", GET)
    await soon(lambda: reading.body == b"ok")
    upstream.close()
    await soon(lambda: talker.open == 0 and upstream.connections == 0)
    assert reading.told == ["head 200", "body"]
