"""Clients that hold something and do not go on: cut, one by one and in crowds, and the operator is answered."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from aiohttp import web

import lbfakes
from fakes import soon
from lb.admission.budget import UNCOUNTED
from lb.admission.crowd import Crowd
from lbfakes import DEADLINE_S, Balanced, Worker

pytestmark = pytest.mark.processes

StartWorker = Callable[..., Awaitable[Worker]]
StartBalancer = Callable[..., Awaitable[Balanced]]
Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]

MIB = 1024 * 1024
LONG = 3_900_000  # bytes of an answer that is read whole before it is passed on


def post(length: int, body: bytes = b"") -> bytes:
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % length + body


@pytest.fixture
async def wires() -> AsyncIterator[Callable[[Balanced, int, bytes], Awaitable[list[Wire]]]]:
    async with AsyncExitStack() as stack:

        async def open_(balancer: Balanced, count: int, data: bytes) -> list[Wire]:
            made = [await stack.enter_async_context(balancer.connection()) for _ in range(count)]
            for _, writer in made:
                writer.write(data)
            return made

        yield open_


Wires = Callable[[Balanced, int, bytes], Awaitable[list[Wire]]]


async def last_words(wire: Wire) -> bytes:
    """All that still comes."""
    got = b""
    with contextlib.suppress(ConnectionError):
        while data := await asyncio.wait_for(wire[0].read(65536), DEADLINE_S):
            got += data
    return got


# bodies


async def test_a_body_of_a_byte_now_and_then_is_given_up(start_balancer: StartBalancer, wires: Wires) -> None:
    balancer = await start_balancer(body_timeout=0.6)
    ((reader, writer),) = await wires(balancer, 1, post(1000))

    async def drip() -> None:
        while True:
            writer.write(b"x")
            await asyncio.sleep(0.05)

    dripping = asyncio.ensure_future(drip())
    try:
        assert b" 408 " in await asyncio.wait_for(reader.readline(), DEADLINE_S)
    finally:
        dripping.cancel()


async def test_a_chunked_body_of_a_byte_now_and_then_is_given_up_too(
    start_balancer: StartBalancer, wires: Wires
) -> None:
    balancer = await start_balancer(body_timeout=0.6)
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    ((reader, writer),) = await wires(balancer, 1, head)

    async def drip() -> None:
        while True:
            writer.write(b"1\r\nx\r\n")
            await asyncio.sleep(0.05)

    dripping = asyncio.ensure_future(drip())
    try:
        assert b" 408 " in await asyncio.wait_for(reader.readline(), DEADLINE_S)
    finally:
        dripping.cancel()


async def test_a_body_that_comes_slowly_and_fast_enough_is_taken(
    start_balancer: StartBalancer, start_worker: StartWorker, wires: Wires
) -> None:
    balancer = await start_balancer(body_timeout=0.6, min_client_rate=10)
    balancer.push((await start_worker()).spec())
    ((reader, writer),) = await wires(balancer, 1, post(40))
    for _ in range(40):
        writer.write(b" ")
        await asyncio.sleep(0.05)
    assert b" 200 " in await asyncio.wait_for(reader.readline(), DEADLINE_S)


async def test_one_address_may_have_so_many_uploads(start_balancer: StartBalancer, wires: Wires) -> None:
    balancer = await start_balancer()
    crowd = balancer.parts.server.admission.crowd
    balancer.parts.server.admission = type(balancer.parts.server.admission)(
        balancer.parts.server.admission.limits, balancer.parts.server.admission.budget,
        Crowd(crowd.most, 10, 3, lambda peer: False),
    )  # fmt: skip
    stalled = await wires(balancer, 3, post(1000, b"x"))
    await soon(lambda: balancer.parts.server.connections == 3)
    (refused,) = await wires(balancer, 1, post(1000, b"x"))
    assert b" 429 " in await asyncio.wait_for(refused[0].readline(), DEADLINE_S)
    stalled[0][1].close()
    await soon(lambda: balancer.parts.server.admission.crowd._uploads["127.0.0.1"] == 2)
    (taken,) = await wires(balancer, 1, b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b" 404 " in await asyncio.wait_for(taken[0].readline(), DEADLINE_S)


# memory


async def test_a_long_body_waits_for_memory_and_a_short_one_does_not(
    start_balancer: StartBalancer, start_worker: StartWorker, wires: Wires
) -> None:
    balancer = await start_balancer(max_buffered=8 * MIB, max_body=4 * MIB)
    balancer.push((await start_worker()).spec())
    holding = await wires(balancer, 4, post(3 * MIB, b"{" + b" " * (2 * MIB)))
    budget = balancer.parts.server.admission.budget
    await soon(lambda: budget.waiting > 0)
    # The model of such a body may come at its end, so all of it is kept.
    assert budget.used <= budget.size + 4 * 256 * 1024
    assert (await balancer.ask())[0] == 200
    for _, writer in holding:
        writer.close()
    await soon(lambda: budget.used == 0)
    assert budget.waiting == 0


async def test_waiting_for_memory_has_an_end(start_balancer: StartBalancer, wires: Wires) -> None:
    balancer = await start_balancer(max_buffered=4 * MIB, max_body=4 * MIB, queue_timeout=0.5)
    await wires(balancer, 1, post(4 * MIB, b"{" + b" " * (3 * MIB)))  # the one that may always go on
    budget = balancer.parts.server.admission.budget
    await soon(lambda: budget.used >= 3 * MIB)
    ((reader, _),) = await wires(balancer, 1, post(3 * MIB, b"{" + b" " * MIB))
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)
    assert b" 503 " in head and b"\r\nRetry-After: 5\r\n" in head


async def test_without_any_room_a_body_is_refused_and_management_is_not(
    start_balancer: StartBalancer, start_worker: StartWorker
) -> None:
    balancer = await start_balancer(max_buffered=MIB)
    balancer.push((await start_worker()).spec())
    budget = balancer.parts.server.admission.budget
    budget.used += 2 * MIB
    async with balancer.generate(user="x" * UNCOUNTED) as response:
        assert (response.status, response.headers["Retry-After"]) == (503, "5")
    assert (await balancer.ask())[0] == 200  # too small to count
    assert (await balancer.answer("GET", "/version"))[0] == 200
    async with balancer.request("PUT", "/v1/cluster/strategy", json={"strategy": "random"}) as response:
        assert response.status not in (413, 429) and b"bodies of requests" not in await response.read()
    budget.used -= 2 * MIB
    assert (await balancer.ask(user="x" * UNCOUNTED))[0] == 200
    await soon(lambda: budget.used == 0)


@pytest.mark.parametrize("ending", ["answer", "404", "refused", "client", "worker", "chunks", "upload", "expect"])
async def test_what_a_body_held_is_given_back_on_every_way_out(
    start_balancer: StartBalancer, start_worker: StartWorker, ending: str
) -> None:
    balancer = await start_balancer(max_body=8 * MIB, queue_timeout=0.5)
    if ending != "worker":
        balancer.push((await start_worker()).spec())
    budget = balancer.parts.server.admission.budget
    long = {"model": "base", "prompt": "x" * 500_000}
    if ending == "answer":
        assert (await balancer.answer("POST", "/v1/completions", json=long))[0] == 200
    elif ending == "404":
        assert (await balancer.answer("POST", "/v1/completions", json={**long, "model": "none"}))[0] == 404
    elif ending == "refused":
        assert (await balancer.answer("POST", "/v1/completions", data=b"[" + b" " * 9 * MIB))[0] == 413
    elif ending == "client":
        async with balancer.connection() as (_, writer):
            writer.write(post(MIB, b"x" * 500_000))
            await soon(lambda: budget.used >= 400_000)
    elif ending == "worker":
        assert (await balancer.answer("POST", "/v1/completions", json=long))[0] == 503
    elif ending == "chunks":
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(5):
                yield b" " * 100_000
            yield b'{"model": "base"}'

        assert (await balancer.answer("POST", "/v1/completions", data=pieces()))[0] == 200
    elif ending == "upload":
        assert (await balancer.answer("POST", "/v1/completions", json={**long, "prompt": "x" * 3 * MIB}))[0] == 200
    else:
        async with balancer.request("POST", "/v1/completions", json=long, expect100=True) as response:
            assert response.status == 200
    await soon(lambda: budget.used == 0)


# readers


class Flood:
    """A worker's stream that comes faster than it is read."""

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for _ in range(1000):
            await response.write(b"data: " + b"x" * 60_000 + b"\n\n")
        return response


async def test_a_client_that_does_not_read_is_cut_off(
    start_balancer: StartBalancer, start_worker: StartWorker, wires: Wires
) -> None:
    balancer = await start_balancer(send_timeout=0.6)
    balancer.push((await start_worker(answer=Flood())).spec())
    ((reader, _),) = await wires(balancer, 1, post(17, b'{"model": "base"}'))
    reader._transport.pause_reading()  # type: ignore[attr-defined]
    await soon(lambda: balancer.in_flight == 1)
    await soon(lambda: balancer.in_flight == 0 and balancer.parts.server.connections == 0)
    assert balancer.metric("clusterctl_slow_readers_total") == 1


async def test_a_client_that_reads_slowly_and_fast_enough_is_not(
    start_balancer: StartBalancer, start_worker: StartWorker, wires: Wires
) -> None:
    balancer = await start_balancer(send_timeout=0.6)
    balancer.push((await start_worker(answer=Flood())).spec())
    ((reader, _),) = await wires(balancer, 1, post(17, b'{"model": "base"}'))
    for _ in range(40):
        assert await asyncio.wait_for(reader.read(MIB), DEADLINE_S)
        await asyncio.sleep(0.05)
    assert balancer.metric("clusterctl_slow_readers_total") in (None, 0)


@pytest.mark.parametrize(("ending", "kernel"), [(b"", None), (b"Connection: close\r\n", 64 * 1024)])
async def test_a_whole_answer_is_taken_at_its_clients_pace(
    start_balancer: StartBalancer, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch, ending: bytes,
    kernel: int | None,
) -> None:
    """``kernel``: bytes that the kernel may hold of it, None for as many as it likes."""

    async def long(request: web.Request) -> web.StreamResponse:
        return web.json_response({"data": "x" * LONG})

    def listening(plain: Callable[[], socket.socket] = lbfakes.listening) -> socket.socket:
        listener = plain()
        if kernel is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, kernel)
        return listener

    monkeypatch.setattr(lbfakes, "listening", listening)
    balancer = await start_balancer(send_timeout=0.6)
    balancer.push((await start_worker(answer=long)).spec())
    body = b'{"model": "base", "input": "x"}'
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n"
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        sock.setblocking(False)
        loop, taken = asyncio.get_running_loop(), 0
        await loop.sock_connect(sock, ("127.0.0.1", balancer.port))
        await loop.sock_sendall(sock, head % (len(body), ending) + body)
        while taken <= LONG:
            data = await asyncio.wait_for(loop.sock_recv(sock, 20_000), DEADLINE_S)
            assert data, f"ended after {taken} bytes"
            taken += len(data)
            await asyncio.sleep(0.015)


async def test_what_a_slow_client_sent_ahead_may_wait_for_its_answer(
    start_balancer: StartBalancer, start_worker: StartWorker
) -> None:
    """Nobody looks for the next head until the answer before it has been taken: that takes longer here than a head
    may."""

    async def long(request: web.Request) -> web.StreamResponse:
        return web.json_response({"data": "x" * LONG})

    balancer = await start_balancer(send_timeout=30, head_timeout=0.5)
    balancer.push((await start_worker(answer=long)).spec())
    body = b'{"model": "base", "input": "x"}'
    request = post(len(body), body).replace(b"completions", b"embeddings")
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 * 1024)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", balancer.port))
        await loop.sock_sendall(sock, request + request[:-10])
        await asyncio.sleep(1.5)
        got = await asyncio.wait_for(loop.sock_recv(sock, 65536), DEADLINE_S)
        await loop.sock_sendall(sock, request[-10:])
        while got.count(b"HTTP/1.1 200 OK") < 2 or not got.endswith(b"}"):
            data = await asyncio.wait_for(loop.sock_recv(sock, 65536), DEADLINE_S)
            assert data, got[-100:]
            got += data


# connections


async def test_the_operator_is_answered_when_there_is_no_connection_left(
    start_balancer: StartBalancer, start_worker: StartWorker, wires: Wires
) -> None:
    balancer = await start_balancer(max_connections=20)
    balancer.push((await start_worker()).spec())
    await wires(balancer, 300, b"GET /version HTTP/1.1\r\nHo")
    for path, status in (("/health", 200), ("/v1/cluster/status", 200), ("/v1/models", 200), ("/version", 503)):
        answer = await balancer.raw(b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % path.encode())
        assert answer.startswith(b"HTTP/1.1 %d " % status), (path, answer[:200])
        assert b"\r\nConnection: close\r\n" in answer
    assert balancer.parts.server.connections <= 20 + balancer.parts.server.admission.limits.reserve + 1


async def test_the_reserve_is_not_for_ever(start_balancer: StartBalancer, wires: Wires) -> None:
    balancer = await start_balancer(max_connections=1)
    await wires(balancer, 1, b"")
    (extra,) = await wires(balancer, 1, b"GET /health HTTP/1.1\r\nHo")
    answer = await last_words(extra)
    assert answer.startswith(b"HTTP/1.1 408 ") and b"within 2 s" in answer


async def test_a_place_that_becomes_free_is_the_next_ones(
    start_balancer: StartBalancer, start_worker: StartWorker, wires: Wires
) -> None:
    balancer = await start_balancer(max_connections=1)
    balancer.push((await start_worker()).spec())
    (first,) = await wires(balancer, 1, b"")
    ask = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert b" 503 " in await balancer.raw(ask)
    first[1].close()
    await soon(lambda: balancer.parts.server.connections == 0)
    assert b" 200 " in await balancer.raw(ask)


async def test_one_address_may_have_so_many_connections(
    start_balancer: StartBalancer, start_worker: StartWorker, wires: Wires
) -> None:
    balancer = await start_balancer()
    balancer.push((await start_worker()).spec())
    server = balancer.parts.server
    limits, budget = server.admission.limits, server.admission.budget
    server.admission = type(server.admission)(limits, budget, Crowd(100, 3, 10, lambda peer: False))
    await wires(balancer, 3, b"")
    await soon(lambda: server.connections == 3)
    ask = b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert b" 429 " in await balancer.raw(ask)
    assert b" 200 " in await balancer.raw(ask.replace(b"/version", b"/health"))
