"""A balancer that another has taken the place of: takes no connections, loses no request of those it has."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from config.link import Phase, encode
from config.topology import BalancerConfig
from fakes import soon
from lbfakes import DEADLINE_S, Balanced, Worker, backend_set, listening, snapshot

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[3]
StartWorker = Callable[..., Awaitable[Worker]]

ASK = b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n"
GENERATE = (
    b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n"
    b'{"model": "base", "stream": 0}'  # one that is read along would have to finish
)


async def _answer(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """Head and body of one with a length."""
    async with asyncio.timeout(DEADLINE_S):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        return head, await reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))


def _retiring(balancer: Balanced, timeout: float = 30.0) -> asyncio.Future[None]:
    return asyncio.ensure_future(balancer.parts.server.retire(timeout))


class Stream:
    """A worker's answer that goes on until ``end`` is set."""

    def __init__(self) -> None:
        self.begun, self.end = asyncio.Event(), asyncio.Event()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: {}\n\n")
        self.begun.set()
        await self.end.wait()
        await response.write(b"data: [DONE]\n\n")
        return response


async def test_the_next_request_on_an_idle_connection_is_answered_and_was_the_last(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    balancer.push((await start_worker()).spec())
    async with balancer.connection() as (reader, writer), balancer.connection() as (other, to_other):
        writer.write(ASK)
        head, _ = await _answer(reader)
        assert b"connection: close" not in head
        await soon(lambda: balancer.parts.server.connections == 2)
        retiring = _retiring(balancer)
        await asyncio.sleep(0.3)  # it has looked a few times: neither the idle nor the fresh one is touched
        assert not retiring.done() and not reader.at_eof() and not other.at_eof()
        for source, to in ((reader, writer), (other, to_other)):
            to.write(ASK)
            head, body = await _answer(source)
            assert b"200 ok" in head and b"connection: close" in head and body
            assert await asyncio.wait_for(source.read(), DEADLINE_S) == b""
        await asyncio.wait_for(retiring, DEADLINE_S)


async def test_new_connections_are_left_in_the_socket_for_others(balancer: Balanced) -> None:
    listener = balancer.parts.link._listeners[0]
    async with balancer.connection():
        await soon(lambda: balancer.parts.server.connections == 1)
        retiring = _retiring(balancer)
        await asyncio.sleep(0)
        async with balancer.connection():
            taken, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listener), DEADLINE_S)
            taken.close()
        assert balancer.parts.server.connections == 1
    await asyncio.wait_for(retiring, DEADLINE_S)


async def test_a_stream_may_take_its_time(balancer: Balanced, start_worker: StartWorker) -> None:
    stream = Stream()
    balancer.push((await start_worker(answer=stream)).spec())
    async with balancer.connection() as (reader, writer):
        writer.write(GENERATE)
        await asyncio.wait_for(stream.begun.wait(), DEADLINE_S)
        retiring = _retiring(balancer)
        await asyncio.sleep(0.3)
        assert not retiring.done()
        stream.end.set()
        assert b"[DONE]" in await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), DEADLINE_S)
        writer.write(ASK)  # its head had gone out before anybody knew
        assert b"connection: close" in (await _answer(reader))[0]
        await asyncio.wait_for(retiring, DEADLINE_S)


async def test_a_stream_that_takes_too_long_ends_in_an_error_event(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    stream = Stream()
    balancer.push((await start_worker(answer=stream)).spec())
    async with balancer.connection() as (reader, writer):
        writer.write(GENERATE)
        await asyncio.wait_for(stream.begun.wait(), DEADLINE_S)
        retiring = _retiring(balancer, timeout=0.3)
        text = await asyncio.wait_for(reader.read(), DEADLINE_S)
        assert b'"error"' in text and b"took too long" in text and b"[DONE]" not in text
        await asyncio.wait_for(retiring, DEADLINE_S)
    assert balancer.in_flight == 0
    stream.end.set()


async def test_a_request_that_comes_late_has_its_own_time(balancer: Balanced, start_worker: StartWorker) -> None:
    stream = Stream()
    balancer.push((await start_worker(answer=stream)).spec())
    async with balancer.connection() as (reader, writer):
        writer.write(ASK)
        await _answer(reader)
        retiring = _retiring(balancer, timeout=0.6)
        await asyncio.sleep(0.7)
        writer.write(GENERATE)
        await asyncio.wait_for(stream.begun.wait(), DEADLINE_S)
        await asyncio.sleep(0.1)
        stream.end.set()
        assert b"[DONE]" in await asyncio.wait_for(reader.read(), DEADLINE_S)
        await asyncio.wait_for(retiring, DEADLINE_S)


async def test_it_is_told_over_the_link_and_says_so(balancer: Balanced) -> None:
    parts = balancer.parts
    reader, writer = await asyncio.open_unix_connection(str(balancer.link_path))
    assert json.loads(await reader.readline())["phase"] == "serving"
    retiring = asyncio.ensure_future(parts.retire())
    async with balancer.connection():
        await soon(lambda: parts.server.connections == 1)
        writer.write(encode({"type": "retire", "timeout": 7.5}))
        while (said := json.loads(await asyncio.wait_for(reader.readline(), DEADLINE_S)))["type"] != "phase":
            pass
        assert said == {"type": "phase", "phase": "draining", "requests": 0}
        assert (parts.link.drain_timeout, parts.link.phase) == (7.5, Phase.DRAINING)
        writer.write(encode({"type": "set", "set": backend_set(revision=5).to_json()}))
        await soon(lambda: parts.pool.version == (1, 5), "it is told of changes still")
    await asyncio.wait_for(retiring, DEADLINE_S)
    writer.close()


# a process that waits


async def _standby(listener: socket.socket, ready: bool = True) -> tuple[asyncio.subprocess.Process, socket.socket]:
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "lb", "--standby", str(theirs.fileno()), cwd=ROOT,
            pass_fds=[listener.fileno(), theirs.fileno()],
        )  # fmt: skip
    ours.setblocking(False)
    if not ready:
        return process, ours
    async with asyncio.timeout(30):
        assert await asyncio.get_running_loop().sock_recv(ours, 16) == b"ready\n"
    return process, ours


@pytest.mark.parametrize("half", [b"", b'{"link": "half a li'])
async def test_a_standby_ends_with_its_supervisor(half: bytes) -> None:
    with listening() as listener:
        process, channel = await _standby(listener)
        channel.sendall(half)
        channel.close()
        assert await asyncio.wait_for(process.wait(), DEADLINE_S) == 0


@pytest.mark.parametrize("ready", [True, False])
async def test_a_standby_becomes_what_it_is_told(tmp_path: Path, start_worker: StartWorker, ready: bool) -> None:
    """Without a supervisor that says a word: what it is started with is enough to serve. It may be told while it is
    importing still, by one that does not wait for its word."""
    worker, link, log = await start_worker(), tmp_path / "lb-1.sock", tmp_path / "balancer.log"
    with listening() as listener:
        process, channel = await _standby(listener, ready)
        config = BalancerConfig(listener.fileno(), str(tmp_path), "127.0.0.1", 1, 5.0, log_level="debug")
        start: dict[str, Any] = {
            **config.to_json(), "link": str(link), "log": str(log),
            "set": backend_set(worker.spec()).to_json(), "snapshot": snapshot("instance_0"),
        }  # fmt: skip
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(ASK)  # it waits in the socket
        channel.setblocking(True)
        channel.sendall(encode(start))
        channel.close()
        assert b"200 ok" in (await _answer(reader))[0]
        assert log.exists() and link.exists()
        writer.close()
        os.kill(process.pid, 15)
        assert await asyncio.wait_for(process.wait(), DEADLINE_S) == 0
        assert not link.exists()
