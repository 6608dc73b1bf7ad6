"""A stream whose model has to come up first: its head goes out early, and what comes later stands in the stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from config.topology import OfferedModel
from fakes import soon
from lbfakes import Balanced, Worker

StartWorker = Callable[..., Awaitable[Worker]]

CHAT, TEXT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lb.forwarding.early_head._FIRST_S", 0.02)
    monkeypatch.setattr("lb.forwarding.early_head._EVERY_S", 0.02)


def be_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes next is not waited for so long, however slow this machine is."""
    monkeypatch.setattr("lb.forwarding.early_head._FIRST_S", 5.0)


def push(balancer: Balanced, *workers: Worker, state: str = "down", **fields: Any) -> None:
    offer = OfferedModel("base", ("base",), "default", state, 30.0, **fields)
    balancer.push(*(worker.spec() for worker in workers), models=(offer,))


@asynccontextmanager
async def asked(balancer: Balanced, path: str = TEXT, **fields: Any) -> AsyncIterator[asyncio.StreamReader]:
    """The answer to a stream, as its bytes come, behind its head."""
    body = json.dumps({"model": "base", "prompt": "x", "messages": [], "input": "x", "stream": True, **fields}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    async with balancer.connection() as (reader, writer):
        writer.write(head.encode() + body)
        yield reader


async def head(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)


async def rest(reader: asyncio.StreamReader) -> bytes:
    """What its chunks hold, to the last one."""
    whole = b""
    while size := int(await asyncio.wait_for(reader.readline(), 5), 16):
        whole += await reader.readexactly(size)
        assert await reader.readline() == b"\r\n"
    assert await reader.readline() == b"\r\n"
    return whole


def events(whole: bytes) -> list[bytes]:
    """Without the comments, which have to be there."""
    found = [part for part in whole.split(b"\n\n") if part]
    said = [part for part in found if not part.startswith(b":")]
    assert b": waiting for base" in found and len(said) < len(found)
    return said


def stream(*pieces: str, path: str = TEXT) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Mine": "no"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(f"data: {piece}\n\n".encode())
            await asyncio.sleep(0.01)
        return response

    return answer


def chunk(text: str, finish: str | None = None) -> str:
    choice = {"index": 0, "text": text, "token_ids": [7], "finish_reason": finish}
    return json.dumps({"id": "c", "object": "text_completion", "created": 1, "model": "base", "choices": [choice]})


PIECES = chunk("a"), chunk("b", "stop"), "[DONE]"


@pytest.mark.parametrize("path", [TEXT, MESSAGES, RESPONSES])
async def test_the_head_comes_first_and_the_answer_behind_it(
    balancer: Balanced, start_worker: StartWorker, path: str
) -> None:
    push(balancer)
    async with asked(balancer, path) as reader:
        first = await head(reader)
        assert first.startswith(b"HTTP/1.1 200 OK\r\n") and b"text/event-stream" in first and b"X-Request-Id" in first
        await asyncio.sleep(0.06)
        push(balancer, await start_worker(answer=stream(*PIECES)), state="up")
        said = [event for event in events(await rest(reader)) if not event.endswith(b"[DONE]")]
        assert [json.loads(event.removeprefix(b"data: "))["choices"][0]["text"] for event in said] == ["a", "b"]
        await soon(lambda: balancer.in_flight == 0)


async def test_the_connection_goes_on(
    balancer: Balanced, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(balancer)
    async with balancer.connection() as (reader, writer):
        body = b'{"model": "base", "prompt": "x", "stream": true}'
        start = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        ask = start + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        writer.write(ask)
        await head(reader)
        push(balancer, await start_worker(answer=stream(*PIECES)), state="up")
        await rest(reader)
        be_patient(monkeypatch)
        writer.write(ask)
        assert b"X-Mine: no" in await head(reader), "the worker's own"


async def test_no_head_goes_out_where_no_stream_was_asked_for_or_the_wait_is_short(
    balancer: Balanced, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(balancer)
    plain = asyncio.ensure_future(balancer.ask())
    await asyncio.sleep(0.1)
    worker = await start_worker()
    push(balancer, worker, state="up")
    assert await plain == (200, {"worker": "instance_0"})
    worker.answer = stream(*PIECES)
    be_patient(monkeypatch)
    async with asked(balancer) as reader:
        assert b"X-Mine: no" in await head(reader)


@pytest.mark.parametrize(
    ("path", "shape"),
    [(TEXT, {"error": {"code": 503}}), (CHAT, {"error": {"code": 503}}), (MESSAGES, {"type": "error"}),
     (RESPONSES, {"code": "503", "type": "error"})],
)  # fmt: skip
async def test_a_start_that_fails_is_told_in_the_stream(balancer: Balanced, path: str, shape: dict[str, Any]) -> None:
    push(balancer)
    async with asked(balancer, path) as reader:
        await head(reader)
        push(balancer, state="failed", why="no memory", retry_at=9e9)
        (said,) = events(await rest(reader))
        made = json.loads(said.partition(b"data: ")[2])
        assert "base cannot be started: no memory" in made["error"]["message"]
        assert all(made[key] == value or made[key].items() >= value.items() for key, value in shape.items())


async def test_what_a_worker_refuses_is_told_in_the_stream(balancer: Balanced, start_worker: StartWorker) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "too long", "code": 400}}, status=400)

    push(balancer)
    async with asked(balancer) as reader:
        await head(reader)
        push(balancer, await start_worker(answer=refuse), state="up")
        (said,) = events(await rest(reader))
        assert json.loads(said.removeprefix(b"data: "))["error"] == {
            "message": "too long", "type": "BadRequestError", "param": None, "code": 400
        }  # fmt: skip
    assert balancer.in_flight == 0


async def test_an_answer_that_is_no_stream_is_no_silent_end(balancer: Balanced, start_worker: StartWorker) -> None:
    push(balancer)
    async with asked(balancer) as reader:
        await head(reader)
        push(balancer, await start_worker(), state="up")
        (said,) = events(await rest(reader))
        assert b"error" in said


async def test_a_worker_that_dies_before_it_has_begun_is_no_loss(balancer: Balanced, start_worker: StartWorker) -> None:
    async def die(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    push(balancer)
    async with asked(balancer) as reader:
        await head(reader)
        bad, good = await start_worker("instance_0", die), await start_worker("instance_1", stream(*PIECES))
        push(balancer, bad, good, state="up")
        assert b'"b"' in events(await rest(reader))[1]


async def test_who_leaves_is_gone(balancer: Balanced, start_worker: StartWorker) -> None:
    push(balancer)
    async with asked(balancer) as reader:
        await head(reader)
    await soon(lambda: not list(balancer.parts.shared.demand._waiting()), "it has left")
    worker = await start_worker()
    push(balancer, worker, state="up")
    await asyncio.sleep(0.1)
    assert worker.seen == []


async def test_a_balancer_that_has_to_go_says_so(balancer: Balanced) -> None:
    push(balancer)
    async with asked(balancer) as reader:
        await head(reader)
        for exchange in balancer.parts.server.under_way():
            exchange.cut("the balancer is going")
        (said,) = events(await rest(reader))
        assert b"the balancer is going" in said


