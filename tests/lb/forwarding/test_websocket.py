from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from fakes import soon
from lbfakes import Balanced, RawHandler, RawWorker, Worker, closed_port, in_time, raw_answer, spec

StartWorker = Callable[..., Awaitable[Worker]]
StartRaw = Callable[[RawHandler], Awaitable[RawWorker]]
PATH = "/v1/realtime?model=base"


class Echo:
    """A WebSocket that says everything back, and what it is told to."""

    def __init__(self) -> None:
        self.sockets: list[web.WebSocketResponse] = []
        self.closed = asyncio.Event()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        self.sockets.append(socket)
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await socket.send_str(message.data)
                else:
                    await socket.send_bytes(message.data)
        finally:
            self.closed.set()
        return socket


async def test_frames_go_both_ways(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker(answer=Echo())
    balancer.push(worker.spec())
    async with balancer.session.ws_connect(balancer.url + PATH) as socket:
        assert balancer.in_flight == 1
        await socket.send_str("hällo")
        assert (await socket.receive(5)).data == "hällo"
        await socket.send_bytes(b"\x00\xff" * 50_000)
        assert (await socket.receive(5)).data == b"\x00\xff" * 50_000
    await soon(lambda: balancer.in_flight == 0)
    await soon(lambda: balancer.counts() == (1, 0))
    assert worker.seen[0].target == PATH


async def test_a_ping_is_answered_by_the_worker(balancer: Balanced, start_worker: StartWorker) -> None:
    balancer.push((await start_worker(answer=Echo())).spec())
    async with balancer.session.ws_connect(balancer.url + PATH, autoping=False) as socket:
        await socket.ping(b"there?")
        message = await socket.receive(5)
        assert (message.type, message.data) == (WSMsgType.PONG, b"there?")


async def test_when_the_worker_closes_the_client_is_told_the_code(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    echo = Echo()
    balancer.push((await start_worker(answer=echo)).spec())
    async with balancer.session.ws_connect(balancer.url + PATH) as socket:
        await soon(lambda: echo.sockets)
        closing = asyncio.ensure_future(echo.sockets[0].close(code=4001))
        message = await socket.receive(5)
        assert (message.type, message.data) == (WSMsgType.CLOSE, 4001)
        await closing


async def test_when_the_client_closes_the_worker_is_told(balancer: Balanced, start_worker: StartWorker) -> None:
    echo = Echo()
    balancer.push((await start_worker(answer=echo)).spec())
    async with balancer.session.ws_connect(balancer.url + PATH) as socket:
        await socket.close()
    await in_time(echo.closed)
    await soon(lambda: balancer.in_flight == 0)


async def test_when_the_clients_connection_breaks_the_worker_is_told(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    echo = Echo()
    balancer.push((await start_worker(answer=echo)).spec())
    async with balancer.session.ws_connect(balancer.url + PATH) as socket:
        await soon(lambda: echo.sockets)
        transport = socket._response.connection.transport
        transport.abort()
        await in_time(echo.closed)
        await soon(lambda: balancer.in_flight == 0)


async def test_an_eviction_closes_it_with_service_restart(balancer: Balanced, start_worker: StartWorker) -> None:
    balancer.push((await start_worker(answer=Echo())).spec())
    async with balancer.session.ws_connect(balancer.url + PATH) as socket:
        balancer.push()
        message = await socket.receive(5)
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1012)
    assert balancer.in_flight == 0


async def test_it_is_opened_elsewhere_where_a_worker_cannot_be_connected_to(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    worker = await start_worker("instance_1", Echo())
    balancer.push(spec("instance_0", closed_port()), worker.spec())
    async with balancer.session.ws_connect(balancer.url + PATH) as socket:
        await socket.send_str("x")
        assert (await socket.receive(5)).data == "x"


async def test_a_worker_that_takes_no_socket_is_502(balancer: Balanced, start_raw: StartRaw) -> None:
    balancer.push((await start_raw(raw_answer(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))).spec())
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await balancer.session.ws_connect(balancer.url + PATH)
    assert refused.value.status in (404, 502)
    assert balancer.in_flight == 0
    assert balancer.counts()[0] == 1


async def test_a_subprotocol_is_agreed_upon_with_the_worker(balancer: Balanced, start_worker: StartWorker) -> None:
    async def realtime(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(protocols=["realtime"])
        await socket.prepare(request)
        await socket.receive()
        return socket

    balancer.push((await start_worker(answer=realtime)).spec())
    async with balancer.session.ws_connect(balancer.url + PATH, protocols=["x", "realtime"]) as socket:
        assert socket.protocol == "realtime"
