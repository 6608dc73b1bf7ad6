"""Requests to a balancer that keeps answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from fakes import soon
from lbfakes import Balanced, Worker, card

StartWorker = Callable[..., Awaitable[Worker]]
StartBalancer = Callable[..., Awaitable[Balanced]]

ON = {"response_cache_size": 1024 * 1024, "response_cache_ttl": 60.0}
CHOICE = {"index": 0, "text": "a", "token_ids": [7], "finish_reason": "stop"}
CHUNK = {"id": "c", "object": "text_completion", "created": 1, "model": "base", "choices": [CHOICE]}
PIECES = b"data: %b\n\n" % json.dumps(CHUNK).encode(), b"data: [DONE]\n\n"


async def ask(balancer: Balanced, **fields: Any) -> tuple[int, str | None, bytes]:
    """Status, X-Cache and body."""
    async with balancer.generate(**{"temperature": 0, **fields}) as response:
        return response.status, response.headers.get("X-Cache"), await response.read()


async def stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    for piece in PIECES:
        await response.write(piece)
        await asyncio.sleep(0.01)
    return response


async def test_the_second_one_asks_no_worker(start_balancer: StartBalancer, start_worker: StartWorker) -> None:
    balancer, worker = await start_balancer(**ON), await start_worker()
    balancer.push(worker.spec())
    first, second = await ask(balancer), await ask(balancer)
    assert (first[1], second[1]) == ("miss", "hit") and first[2] == second[2] and second[0] == 200
    assert len(worker.seen) == 1 and balancer.counts() == (1, 0) and balancer.in_flight == 0
    metric = "clusterctl_response_cache_requests_total"
    assert [balancer.metric(metric, result=result) for result in ("hit", "miss")] == [1, 1]
    assert (await ask(balancer, prompt="y"))[1] == "miss" and len(worker.seen) == 2
    assert (await ask(balancer, temperature=1))[1] is None and len(worker.seen) == 3


async def test_without_the_setting_each_one_asks(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec())
    assert [(await ask(balancer))[1] for _ in range(2)] == [None, None] and len(worker.seen) == 2


async def test_a_stream_is_given_again_as_its_events(start_balancer: StartBalancer, start_worker: StartWorker) -> None:
    balancer, worker = await start_balancer(**ON), await start_worker(answer=stream)
    balancer.push(worker.spec())
    first, second = await ask(balancer, stream=True), await ask(balancer, stream=True)
    assert first[2] == second[2] and first[2].endswith(PIECES[1]) and (first[1], second[1]) == ("miss", "hit")
    assert len(worker.seen) == 1


async def test_what_is_no_whole_answer_is_asked_again(start_balancer: StartBalancer, start_worker: StartWorker) -> None:
    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"error": {"message": "no", "code": 400}}, status=400)

    async def break_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(PIECES[0].replace(b'"stop"', b"null"))
        await asyncio.sleep(0.01)
        assert request.transport is not None
        request.transport.abort()
        return response

    balancer, worker = await start_balancer(**ON, resume=False), await start_worker(answer=refuse)
    balancer.push(worker.spec())
    assert [(await ask(balancer))[:2] for _ in range(2)] == [(400, "miss")] * 2
    worker.answer = break_off
    for _ in range(2):
        with pytest.raises(aiohttp.ClientPayloadError):
            await ask(balancer, stream=True)
    assert len(worker.seen) == 4 and not balancer.metric("clusterctl_response_cache_answers")


async def test_a_client_that_leaves_keeps_no_room(start_balancer: StartBalancer, start_worker: StartWorker) -> None:
    async def hang(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(PIECES[0] * 100)
        await asyncio.sleep(60)
        return response

    balancer, worker = (
        await start_balancer(response_cache_size=32 * 1024, response_cache_ttl=60.0),
        await start_worker(),
    )
    balancer.push(worker.spec())
    worker.answer = hang
    for _ in range(4):
        async with balancer.generate(temperature=0, stream=True) as response:
            await response.content.readany()
    await soon(lambda: balancer.in_flight == 0, "they have left")
    worker.answer = stream
    assert [(await ask(balancer, stream=True))[1] for _ in range(2)] == ["miss", "hit"]


async def test_another_version_of_the_model_is_another_model(
    start_balancer: StartBalancer, start_worker: StartWorker
) -> None:
    balancer, worker = await start_balancer(**ON), await start_worker()

    def push(root: str) -> None:
        adapter = {**card("poet", "base"), "root": root}
        spec = worker.spec()
        balancer.push(type(spec)(**{**_fields(spec), "models": (card("base"), adapter)}), registered=(adapter,))

    push("/one")
    assert [(await ask(balancer, model="poet"))[1] for _ in range(2)] == ["miss", "hit"]
    push("/two")
    assert [(await ask(balancer, model="poet"))[1] for _ in range(2)] == ["miss", "hit"]
    push("/one")
    assert (await ask(balancer, model="poet"))[1] == "hit" and len(worker.seen) == 2


async def test_an_answer_of_a_model_that_changed_meanwhile_is_not_kept(
    start_balancer: StartBalancer, start_worker: StartWorker
) -> None:
    balancer, worker = await start_balancer(**ON), await start_worker()
    spec = worker.spec()

    async def change(_: web.Request) -> web.Response:
        balancer.push(type(spec)(**{**_fields(spec), "models": ({**card("base"), "root": "/other"},)}))
        return web.json_response({})

    balancer.push(spec)
    worker.answer = change
    assert (await ask(balancer))[1] == "miss"
    assert not balancer.metric("clusterctl_response_cache_answers")


async def test_why_says_where_the_answer_came_from(start_balancer: StartBalancer, start_worker: StartWorker) -> None:
    balancer, worker = await start_balancer(**ON), await start_worker()
    balancer.push(worker.spec())
    await ask(balancer)
    await ask(balancer)
    told = (await balancer.answer("GET", "/v1/cluster/why?limit=2"))[1]["decisions"]
    assert [(len(each["attempts"]), each["outcome"]["status"], each.get("cached", False)) for each in told] == [
        (0, 200, True), (1, 200, False),
    ]  # fmt: skip


async def test_several_on_one_connection(start_balancer: StartBalancer, start_worker: StartWorker) -> None:
    balancer, worker = await start_balancer(**ON), await start_worker()
    balancer.push(worker.spec())
    body = json.dumps({"model": "base", "prompt": "x", "temperature": 0}).encode()
    one = (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b\r\n%b"
    )
    await ask(balancer)
    answer = await balancer.raw(one % (len(body), b"", body) + one % (len(body), b"Connection: close\r\n", body))
    assert answer.count(b"X-Cache: hit") == 2 and answer.count(b'{"worker": "instance_0"}') == 2
    assert len(worker.seen) == 1


def _fields(spec: Any) -> dict[str, Any]:
    return {name: getattr(spec, name) for name in type(spec).__dataclass_fields__}
