"""What a worker answers, fetched whole, or told as it comes."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import AsyncExitStack

import pytest

import lb.upstream.connections
from fakes import soon
from lb.upstream.connection import WorkerConnection
from lb.upstream.connections import Upstream
from lbfakes import (
    RawWorker,
    listening,
    raw_answer,
)
from talkers import CHUNKED, GET, OK, Reading, StartRaw, StartTalker, Talker, failed, fetched, where

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
    await soon(lambda: upstream.connections == 0)


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
    await soon(lambda: talker.open == 0 and upstream.connections == 0)
    assert upstream.idle(where(upstream, talker.port)) is None


async def test_a_fetch_that_is_cancelled_leaves_no_connection(upstream: Upstream, start_talker: StartTalker) -> None:
    talker = await start_talker(lambda _: OK[:-1])
    task = asyncio.ensure_future(fetched(upstream, talker.port))
    await soon(lambda: talker.asked)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await soon(lambda: talker.open == 0 and upstream.connections == 0)


async def test_an_answer_that_is_too_large_is_given_up(
    upstream: Upstream, start_talker: StartTalker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lb.upstream.connections, "_MOST_TEXT", 1000)
    talker = await start_talker(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b"x" * 5000)
    assert "too large" in str(await failed(fetched(upstream, talker.port)))
    await soon(lambda: talker.open == 0 and upstream.connections == 0)


async def test_an_answer_that_is_too_large_is_given_up_where_it_ends_as_well(
    upstream: Upstream, start_talker: StartTalker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lb.upstream.connections, "_MOST_TEXT", 1000)
    talker = await start_talker(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n" + b"x" * 1001)
    assert "too large" in str(await failed(fetched(upstream, talker.port)))
    await soon(lambda: talker.open == 0 and upstream.connections == 0)


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
    await soon(lambda: talker.open == 0 and upstream.connections == 0)
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
    await soon(lambda: talker.open == 0 and upstream.connections == 0)


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
    await soon(lambda: reading.told == ["writable False"])
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
        await soon(lambda: reading.body)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    server = await stack.enter_async_context(await asyncio.start_server(reset, sock=listening()))
    listener_port = server.sockets[0].getsockname()[1]
    connection = await upstream.connect(where(upstream, listener_port))
    connection.ask(reading, "POST", GET)
    await reading.over()
    assert reading.told[-1] == "failure"
    assert reading.reason
