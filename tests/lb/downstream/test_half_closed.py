"""A client that ends its half of the connection after its request (``nc -N``) gets its answer; one that has left does
not keep its worker busy."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from fakes import soon
from lbfakes import DEADLINE_S, Balanced, Worker, in_time
from slowanswers import BODY, STREAM, Slow, post

StartWorker = Callable[..., Awaitable[Worker]]


@pytest.fixture
async def slow(balancer: Balanced, start_worker: StartWorker) -> Slow:
    answer = Slow()
    balancer.push((await start_worker(answer=answer)).spec())
    return answer


async def half_closed(balancer: Balanced, request: bytes, then: Callable[[], Awaitable[object]] | None = None) -> bytes:
    """All that comes after the request and the end of our half."""
    async with balancer.connection() as (reader, writer):
        writer.write(request)
        writer.write_eof()
        if then is not None:
            await then()
        return await asyncio.wait_for(reader.read(), DEADLINE_S)


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /version HTTP/1.0\r\nHost: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /health HTTP/1.0\r\nHost: x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n",
        post(b'{"model": "none"}'),
    ],
)  # fmt: skip
async def test_a_quick_answer_comes_alone_and_then_the_connection_ends(
    balancer: Balanced, slow: Slow, request_: bytes
) -> None:
    answer = await half_closed(balancer, request_)
    assert answer.count(b"HTTP/1.1 ") == 1 and b"HTTP/1.1 100" not in answer
    assert answer.endswith(b"}") or b"content-length: 0\r\n" in answer.lower()


async def test_requests_sent_ahead_are_all_answered(balancer: Balanced, slow: Slow) -> None:
    ahead = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n" * 3
    answer = await half_closed(balancer, ahead)
    assert answer.count(b"HTTP/1.1 200") == 3
    assert answer.lower().count(b"connection: close") == 1


async def test_what_follows_a_refusal_is_answered_too(balancer: Balanced, slow: Slow) -> None:
    answer = await half_closed(balancer, post(b'{"model": "none"}') * 3 + b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
    assert (answer.count(b"HTTP/1.1 404"), answer.count(b"HTTP/1.1 200")) == (3, 1)
    assert answer.lower().count(b"connection: close") == 1


async def test_an_empty_line_after_each_body_is_passed_over_each_time(balancer: Balanced, slow: Slow) -> None:
    async with balancer.connection() as (reader, writer):
        for _ in range(4):
            writer.write(post(b'{"model": "none"}') + b"\r\n")
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)
            assert head.startswith(b"HTTP/1.1 404")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)


async def test_a_request_that_is_not_whole_is_not_waited_for(balancer: Balanced, slow: Slow) -> None:
    for beginning in (b"GET /version HT", post()[:-1], b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n" + post()[:-1]):
        assert (await half_closed(balancer, beginning)).count(b"HTTP/1.1 ") <= 1
    await soon(lambda: balancer.parts.server.connections == 0)


async def test_a_plain_generation_that_takes_its_time_is_answered(balancer: Balanced, slow: Slow) -> None:
    async def then() -> None:
        await in_time(slow.begun)
        await asyncio.sleep(0.2)  # it was asked whether it is there, and looked at again and again since
        slow.end.set()

    answer = await half_closed(balancer, post(), then)
    first, _, rest = answer.partition(b"\r\n\r\n")
    assert first == b"HTTP/1.1 100 Continue"
    assert rest.startswith(b"HTTP/1.1 200") and rest.endswith(b'{"got": "it"}') and not slow.gone.is_set()


async def test_a_stream_is_answered_to_its_end(balancer: Balanced, slow: Slow) -> None:
    async def then() -> None:
        await in_time(slow.begun)
        await asyncio.sleep(0.2)
        slow.end.set()

    answer = await half_closed(balancer, post(STREAM), then)
    assert b"[DONE]" in answer and answer.endswith(b"0\r\n\r\n") and b'"a"' in answer and b'"b"' in answer


async def test_a_stream_stays_chunks_to_a_client_library(balancer: Balanced, slow: Slow) -> None:
    """What asks whether it is there is part of the size of the next chunk."""
    loop = asyncio.get_running_loop()

    def read() -> bytes:
        import http.client

        connection = http.client.HTTPConnection("127.0.0.1", balancer.port, timeout=DEADLINE_S)
        connection.request("POST", "/v1/completions", STREAM, {"Content-Type": "application/json"})
        connection.sock.shutdown(socket.SHUT_WR)
        return connection.getresponse().read()

    reading = loop.run_in_executor(None, read)
    await in_time(slow.begun)
    await asyncio.sleep(0.2)
    slow.end.set()
    assert (await reading).endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("body", "version"), [(BODY, b"1.1"), (STREAM, b"1.1"), (BODY, b"1.0")], ids=["plain", "stream", "plain in 1.0"]
)
async def test_one_that_has_left_is_noticed_although_nothing_is_written(
    balancer: Balanced, slow: Slow, body: bytes, version: bytes
) -> None:
    async with balancer.connection() as (reader, writer):
        writer.write(post(body, version))
        await in_time(slow.begun)
        if body is STREAM:
            await asyncio.wait_for(reader.readuntil(b'"a"'), DEADLINE_S)
        writer.close()
        await in_time(slow.gone)
    await soon(lambda: balancer.in_flight == 0)
    labels = {"instance": "instance_0", "route": "/v1/completions", "code": "499"}
    assert balancer.metric("clusterctl_requests_total", **labels) == 1


async def test_one_that_has_left_is_noticed_by_the_next_event_in_1_0_too(balancer: Balanced, slow: Slow) -> None:
    async with balancer.connection() as (reader, writer):
        writer.write(post(STREAM, b"1.0"))
        await asyncio.wait_for(reader.readuntil(b'"a"'), DEADLINE_S)
        writer.close()
    slow.end.set()
    await soon(lambda: balancer.in_flight == 0 and balancer.parts.server.connections == 0)


async def test_an_upload_whose_end_lies_unread_is_taken_for_whole(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    """It waits for a worker, unread, and the client has ended its half behind it."""
    size = 1_500_000
    body = b'{"model": "base", "prompt": "' + b"x" * size + b'"}'
    async with balancer.connection() as (reader, writer):
        writer.write(post(body))
        writer.write_eof()
        await soon(lambda: balancer.parts.server.connections == 1)
        await asyncio.sleep(0.1)  # the sweep has looked at it
        worker = await start_worker()
        balancer.push(worker.spec())
        answer = await asyncio.wait_for(reader.read(), DEADLINE_S)
    assert b"HTTP/1.1 200" in answer
    assert worker.seen[0].body == body
