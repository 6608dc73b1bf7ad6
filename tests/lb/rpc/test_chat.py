"""`InternalChat` over gRPC, in front of workers that stream what they are told."""

from __future__ import annotations

import asyncio
import gc
import json
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web

from fakes import soon
from lb.rpc.services import CHAT
from lbfakes import DEADLINE_S
from rpcserved import MODELS, Code, an_event, begun_stream, calling


@pytest.mark.parametrize(
    ("fields", "model"),
    [
        ({"prompt": "我的账单"}, "expert-a"), ({}, "base"), ({"expert_id": ""}, "base"),
        ({"prompt": "我的账单", "expert_id": "expert-b"}, "expert-b"),
        ({"prompt": "账单", "expert_id": "finance"}, "expert-a"),
    ],
)  # fmt: skip
async def test_the_text_comes_as_it_is_made(tmp_path: Path, fields: dict[str, Any], model: str) -> None:
    async with calling(tmp_path) as called:
        call = called.call(max_tokens=5, temperature=0.5, **fields)
        said = [(chunk.text_delta, chunk.finished) async for chunk in call]
        assert said == [("你", False), ("好", False), (model, False), ("", True)]
        asked = json.loads(called.worker.seen[-1].body)
        assert (asked["model"], asked["max_tokens"], asked["temperature"]) == (model, 5, 0.5)
        assert asked["messages"] == [{"role": "user", "content": fields.get("prompt", "x")}]
        told = dict(await call.initial_metadata())
        assert ("x-routed-model" in told) == (fields.get("expert_id") in (None, "", "finance"))
        rows = (await called.balancer.answer("GET", f"/v1/cluster/why?request_id={told['x-request-id']}"))[1]
        assert len(rows["decisions"]) == 1, "`why` knows it by the id that its caller was told"
    assert called.balancer.in_flight == 0


async def test_without_a_route_a_model_has_to_be_named(tmp_path: Path) -> None:
    async with calling(tmp_path) as called:
        called.balancer.push(called.worker.spec(models=MODELS))
        assert (await called.failure()).code() is Code.NOT_FOUND
        assert len(await called.chat(expert_id="base")) == 4


@pytest.mark.parametrize(
    ("fields", "code", "says"),
    [
        ({"expert_id": "nobody"}, Code.NOT_FOUND, "nobody"), ({"prompt": ""}, Code.INVALID_ARGUMENT, "prompt"),
        ({"temperature": float("nan")}, Code.INVALID_ARGUMENT, "temperature"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_said(tmp_path: Path, fields: dict[str, Any], code: Any, says: str) -> None:
    async with calling(tmp_path) as called:
        error = await called.failure(**fields)
        assert error.code() is code and says in str(error.details())
        assert dict(error.trailing_metadata() or ())["x-request-id"]
        assert called.worker.seen == []


async def test_a_message_that_is_none_and_one_that_is_too_large(tmp_path: Path) -> None:
    async with calling(tmp_path) as called:
        for data, code in (
            (b"\xff\xff", Code.INVALID_ARGUMENT), (b"\n\x02\xff\xfe", Code.INVALID_ARGUMENT),
            (b"x" * 2**21, Code.RESOURCE_EXHAUSTED),
        ):  # fmt: skip
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await called.channel.unary_stream(CHAT)(data, timeout=DEADLINE_S).read()
            assert failed.value.code() is code, data[:5]
        packed = called.channel.unary_stream(CHAT)(b"\n" + b"x" * 9000, compression=grpc.Compression.Gzip)
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await packed.read()
        assert failed.value.code() is Code.UNIMPLEMENTED, "a small message could be of any size"
        assert called.worker.seen == [] and len(await called.chat()) == 4


async def test_a_refusal_of_the_worker_is_the_answer(tmp_path: Path) -> None:
    async def refuses(request: web.Request) -> web.StreamResponse:
        await request.read()
        return web.json_response({"error": {"message": "too long", "code": 400}}, status=400)

    async with calling(tmp_path, refuses) as called:
        error = await called.failure()
        assert (error.code(), error.details()) == (Code.INVALID_ARGUMENT, "too long")


async def test_a_caller_that_leaves_ends_it(tmp_path: Path) -> None:
    hold = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = await begun_stream(request)
        await response.write(an_event("a"))
        await hold.wait()
        return response

    async with calling(tmp_path, slow) as called:
        call = called.call(timeout=None)
        assert (await call.read()).text_delta == "a" and called.balancer.in_flight == 1
        call.cancel()
        await soon(lambda: called.balancer.in_flight == 0 and called.worker.open == 0)
        other = called.call(timeout=None)
        await other.read()
        await called.channel.close()
        await soon(lambda: called.balancer.in_flight == 0 and called.worker.open == 0)
        crowd = called.balancer.parts.server.admission.crowd
        del call, other  # a channel of the library is closed once nobody holds a call of it
        gc.collect()
        await soon(lambda: crowd.size == 0 and called.balancer.parts.server.connections == 0)


async def test_a_stream_that_breaks_off_is_no_answer(tmp_path: Path) -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = await begun_stream(request)
        await response.write(an_event("a"))
        assert request.transport is not None
        request.transport.abort()
        return response

    async with calling(tmp_path, breaks, resume=False) as called:
        call = called.call()
        assert (await call.read()).text_delta == "a"
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call.read()
        assert failed.value.code() is Code.UNAVAILABLE
