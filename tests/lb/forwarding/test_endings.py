"""Who ends an answer, and what the client then sees: a whole balancer between real sockets."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from aiohttp import web

from fakes import soon
from heldanswers import PLAIN_HEAD, SSE_HEAD, Held, StartRaw, StartWorker, chunk, post
from lbfakes import Balanced, in_time, raw_answer


async def test_a_client_that_leaves_closes_the_connection_to_the_worker(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    held = Held()
    balancer.push((await start_worker(answer=held)).spec())
    async with balancer.generate() as response:
        await response.content.readany()
        response.close()
    await in_time(held.gone)
    await soon(lambda: balancer.in_flight == 0)
    assert balancer.counts() == (1, 0)
    labels = {"instance": "instance_0", "route": "/v1/completions", "code": "499"}
    assert balancer.metric("clusterctl_requests_total", **labels) == 1


async def test_a_client_that_leaves_before_the_answer_closes_the_connection_too(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    taken, gone = asyncio.Event(), asyncio.Event()

    async def never(_: web.Request) -> web.StreamResponse:
        taken.set()
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()
        raise AssertionError

    balancer.push((await start_worker(answer=never)).spec())
    async with balancer.connection() as (_, writer):
        writer.write(post())
        await in_time(taken)
        assert balancer.in_flight == 1
    await in_time(gone)
    await soon(lambda: balancer.in_flight == 0)
    assert balancer.counts() == (1, 0)


async def test_a_clients_leaving_does_not_take_the_worker_out(balancer: Balanced, start_worker: StartWorker) -> None:
    held = Held()
    worker = await start_worker(answer=held)
    balancer.push(worker.spec())
    async with balancer.generate() as response:
        await response.content.readany()
        response.close()
    await in_time(held.gone)
    worker.answer = None
    assert (await balancer.ask())[0] == 200


async def test_a_stream_that_breaks_ends_with_an_error_event_and_without_a_last_chunk(
    balancer: Balanced, start_raw: StartRaw
) -> None:
    balancer.push((await start_raw(raw_answer(SSE_HEAD, chunk(b"data: one\n\n")))).spec())
    answer = await balancer.raw(post())
    assert chunk(b"data: one\n\n") in answer
    assert b"[DONE]" not in answer
    assert not answer.endswith(b"0\r\n\r\n")
    event = answer[answer.rindex(b"data: ") + 6 :].strip()
    assert json.loads(event)["error"]["message"].startswith("instance_0: ")
    await soon(lambda: balancer.in_flight == 0)
    assert balancer.counts() == (1, 1)


async def test_the_client_library_sees_a_broken_stream_as_broken(balancer: Balanced, start_raw: StartRaw) -> None:
    balancer.push((await start_raw(raw_answer(SSE_HEAD, chunk(b"data: one\n\n")))).spec())
    async with balancer.generate() as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def test_the_error_is_an_event_of_its_own_where_the_stream_broke_within_one(
    balancer: Balanced, start_raw: StartRaw
) -> None:
    balancer.push((await start_raw(raw_answer(SSE_HEAD, chunk(b'data: {"tex')))).spec())
    async with balancer.generate() as response:
        got = b""
        with pytest.raises(aiohttp.ClientPayloadError):
            async for part in response.content.iter_any():
                got += part
    assert any(line.startswith(b'data: {"error"') for line in got.split(b"\n")), got


async def test_a_plain_answer_that_breaks_is_made_again(balancer: Balanced, start_raw: StartRaw) -> None:
    """Up to `migration_limit` times: nothing of it is sent before it is whole."""
    balancer.push((await start_raw(raw_answer(PLAIN_HEAD, b'{"half'))).spec())
    async with balancer.generate() as response:
        assert response.status == 502
    await soon(lambda: balancer.in_flight == 0)
    assert balancer.counts() == (4, 4)


async def test_a_large_plain_answer_that_breaks_is_cut_off(balancer: Balanced, start_raw: StartRaw) -> None:
    """More of it than is kept has gone out."""
    size = 8 * 1024 * 1024
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % size
    balancer.push((await start_raw(raw_answer(head, b"x" * (size - 1)))).spec())
    async with balancer.generate() as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    await soon(lambda: balancer.in_flight == 0)
    assert balancer.counts() == (1, 1)


async def test_a_plain_chunked_answer_that_breaks_is_made_again(balancer: Balanced, start_raw: StartRaw) -> None:
    head = SSE_HEAD.replace(b"text/event-stream", b"text/plain")
    balancer.push((await start_raw(raw_answer(head, chunk(b"half")))).spec())
    async with balancer.generate() as response:
        assert response.status == 502
    assert balancer.counts() == (4, 4)


@pytest.mark.parametrize("state", ["stopping", "backoff", "failed", "gone", "restarted"])
async def test_an_eviction_ends_the_stream_with_an_error_event(
    balancer: Balanced, start_worker: StartWorker, state: str
) -> None:
    held = Held()
    worker = await start_worker(answer=held)
    balancer.push(worker.spec())
    async with balancer.connection() as (reader, writer):
        writer.write(post())
        await in_time(held.started)
        await soon(lambda: balancer.parts.pool.backends["instance_0"].latency.value is not None)
        changed = {"gone": [], "restarted": [worker.spec(incarnation=2)]}.get(state, [worker.spec(state=state)])
        balancer.push(*changed)
        answer = await asyncio.wait_for(reader.read(), 5)
    assert b'data: {"error"' in answer
    assert b"[DONE]" not in answer
    assert not answer.endswith(b"0\r\n\r\n")
    await in_time(held.gone)
    await soon(lambda: balancer.in_flight == 0)
    assert balancer.counts() == (1, 1)


@pytest.mark.parametrize("state", ["unhealthy", "draining"])
async def test_what_runs_on_a_draining_worker_runs_to_its_end(
    balancer: Balanced, start_worker: StartWorker, state: str
) -> None:
    held = Held()
    worker = await start_worker(answer=held)
    balancer.push(worker.spec())
    async with balancer.generate() as response:
        await response.content.readany()
        balancer.push(worker.spec(state=state))
        held.go_on.set()
        assert await response.read() == b"data: [DONE]\n\n"


async def test_a_second_eviction_in_the_next_turn_of_the_loop_harms_nobody(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    """As when a worker is `stopping` and then gone, in two sets that arrive together."""
    held = Held()
    balancer.push((await start_worker(answer=held)).spec())
    async with balancer.generate() as response:
        await response.content.readany()
        backend, errors = balancer.parts.pool.backends["instance_0"], []

        def evict() -> None:
            try:
                backend.evict("it is gone")
            except Exception as error:
                errors.append(error)

        loop = asyncio.get_running_loop()
        evict()
        loop.call_soon(evict)
        loop.call_soon(loop.call_soon, evict)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
    assert errors == []


async def test_an_eviction_frees_a_client_that_does_not_read(balancer: Balanced, start_worker: StartWorker) -> None:
    async def flood(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        while True:
            await response.write(b"data: x\n\n" * 10_000)

    balancer.push((await start_worker(answer=flood)).spec())
    async with balancer.connection() as (reader, writer):
        writer.write(post())
        assert b"200" in await reader.readline()  # before that, somebody else would be asked
        balancer.push()
        await soon(lambda: balancer.counts() == (1, 1))


async def test_an_eviction_before_the_answer_is_made_good_elsewhere(
    balancer: Balanced, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lb.forwarding.retry.recovery._SETTLED_S", 0.05)
    taken = asyncio.Event()

    async def never(_: web.Request) -> web.StreamResponse:
        taken.set()
        await asyncio.Event().wait()
        raise AssertionError

    bad, good = await start_worker("instance_0", never), await start_worker("instance_1")
    balancer.push(bad.spec(), good.spec())
    asking = asyncio.ensure_future(balancer.ask())
    await in_time(taken)
    balancer.push(good.spec())
    assert await asyncio.wait_for(asking, 5) == (200, {"worker": "instance_1"})
