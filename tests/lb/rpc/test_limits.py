"""What calls over gRPC may take: time, places, bytes, and what their key allows."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from google.rpc import status_pb2

import rpccalls
from config.identity.api_keys import ApiKey, Digest, mint
from fakes import soon
from lb.rpc.services import CHAT
from lbfakes import DEADLINE_S
from rpcserved import Code, an_event, begun_stream, calling, streamed


async def test_a_deadline_ends_it_wherever_it_is(tmp_path: Path) -> None:
    hold = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await hold.wait()
        return web.Response()

    async with calling(tmp_path, slow, max_concurrent=1) as called:
        first = asyncio.ensure_future(called.failure(timeout=0.6))
        await soon(lambda: called.worker.open == 1)
        queued = await called.failure(timeout=0.2)
        assert queued.code() is Code.DEADLINE_EXCEEDED and len(called.worker.seen) == 1, "it never got to a worker"
        assert (await called.failure(("x-request-timeout", "0.1"), timeout=None)).code() is Code.DEADLINE_EXCEEDED
        assert (await first).code() is Code.DEADLINE_EXCEEDED
        await soon(lambda: called.balancer.in_flight == 0 and called.worker.open == 0)


async def test_who_waits_gets_its_turn_and_one_too_many_is_told_when_to_come_back(tmp_path: Path) -> None:
    hold = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await hold.wait()
        return await streamed(request)

    async with calling(tmp_path, slow, max_concurrent=1, max_queue=1) as called:
        first, second = (asyncio.ensure_future(called.chat()) for _ in range(2))
        await soon(lambda: called.worker.open == 1)
        await soon(lambda: len(called.balancer.parts.shared.admission) == 1)
        error = await called.failure()
        assert error.code() in (Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED)
        trailers = dict(error.trailing_metadata() or ())
        said = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
        assert (said.code, said.message) == (error.code().value[0], error.details()), "else clients refuse to read it"
        assert said.details[0].type_url.endswith("/google.rpc.RetryInfo")
        assert int(trailers["grpc-retry-pushback-ms"]) == 1000 * int(trailers["retry-after"]) > 0
        hold.set()
        assert len(await first) == len(await second) == 4


async def test_a_reader_that_takes_nothing_holds_up_its_worker_and_is_cut_off(tmp_path: Path) -> None:
    written = 0

    async def floods(request: web.Request) -> web.StreamResponse:
        nonlocal written
        await request.read()
        response = await begun_stream(request)
        while True:
            await response.write(an_event("x" * 10_000))
            written += 10_000

    async with calling(tmp_path, floods, send_timeout=0.5) as called:
        small = {"grpc.http2.lookahead_bytes": 70_000, "grpc.http2.bdp_probe": 0}
        async with rpccalls.channel(called.target, **small) as slow:
            call = slow.unary_stream(CHAT)(rpccalls.MESSAGES.request(prompt="x").SerializeToString())
            await call.read()
            before = -1
            while before != written:
                before = written
                await asyncio.sleep(0.1)
            assert written < 8_000_000, "what is kept for it is bounded"
            await soon(lambda: called.balancer.in_flight == 0 and called.worker.open == 0)
            assert called.balancer.metric("clusterctl_slow_readers_total") == 1.0
        called.worker.answer = streamed
        assert len(await called.chat()) == 4


async def test_keys_models_and_rates(tmp_path: Path) -> None:
    (bound, digest), (slow, other) = mint(), mint()
    made = [
        ApiKey("bound", digests=(Digest(digest),), models=("expert-b",)),
        ApiKey("slow", digests=(Digest(other),), rpm=1),
    ]
    async with calling(tmp_path, keys=made) as called:
        assert (await called.failure()).code() is Code.UNAUTHENTICATED
        for header in (("authorization", f"Bearer {bound}"), ("x-api-key", bound)):
            assert len(await called.chat(header, expert_id="expert-b")) == 4
            assert (await called.failure(header, expert_id="expert-a")).code() is Code.NOT_FOUND
        assert all(bound not in str(seen) for seen in called.worker.seen)
        call = called.call(("x-api-key", slow))
        assert len([chunk async for chunk in call]) == 4
        assert dict(await call.initial_metadata())["x-ratelimit-limit-requests"] == "1"
        error = await called.failure(("x-api-key", slow))
        trailers = dict(error.trailing_metadata() or ())
        assert error.code() is Code.RESOURCE_EXHAUSTED and int(trailers["retry-after"]) > 0
        assert trailers["x-ratelimit-remaining-requests"] == "0"


async def test_what_a_key_has_taken_is_in_the_ledger(tmp_path: Path) -> None:
    secret, digest = mint()
    async with calling(tmp_path, keys=[ApiKey("some", digests=(Digest(digest),))]) as called:
        for _ in range(3):
            await called.chat(("x-api-key", secret))

        async def rows() -> list[Any]:
            return (await called.balancer.answer("GET", "/v1/cluster/usage?by=key,model"))[1]["usage"]

        while not (found := await rows()):
            await asyncio.sleep(0.05)
        assert [(row["key"], row["model"], row["requests"]) for row in found] == [("some", "base", 3)]


async def test_who_pings_all_the_time_is_cut_off(tmp_path: Path) -> None:
    ping = b"\0\0\x08\x06\0\0\0\0\0" + b"x" * 8
    async with calling(tmp_path) as called:
        host, _, port = called.target.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\x04\0\0\0\0\0" + 10 * ping)
        assert b"too_many_pings" in await asyncio.wait_for(reader.read(), DEADLINE_S)
        writer.close()
        assert len(await called.chat()) == 4


async def test_a_call_counts_as_a_connection_and_one_too_many_is_told(tmp_path: Path) -> None:
    hold = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await hold.wait()
        return await streamed(request)

    async with calling(tmp_path, slow, max_connections=4) as called:
        two = [asyncio.ensure_future(called.chat()) for _ in range(2)]
        await soon(lambda: called.worker.open == 2)
        error = await called.failure()
        assert error.code() is Code.UNAVAILABLE and "connections" in str(error.details())
        hold.set()
        assert [len(said) for said in await asyncio.gather(*two)] == [4, 4]
        assert len(await called.chat()) == 4


@pytest.mark.parametrize("most", [1, 2])
async def test_a_connection_takes_two_places_or_none(tmp_path: Path, most: int) -> None:
    async with calling(tmp_path, max_connections=most) as called:
        crowd, (host, _, port) = called.balancer.parts.server.admission.crowd, called.target.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        if most == 1:
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""
        else:
            await soon(lambda: crowd.size == 2)
        writer.close()
        await soon(lambda: crowd.size == 0 and called.balancer.parts.server.connections == 0)
