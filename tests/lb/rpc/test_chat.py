"""`InternalChat` over gRPC, in front of workers that stream what they are told."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import rpccalls
from config.identity.api_keys import ApiKey, Digest, mint
from config.model_names import route
from lb.rpc import contract, server
from lb.rpc.connection import RpcConnection
from lb.rpc.services import CHAT, SERVED
from lbfakes import DEADLINE_S, Balanced, Worker, listening, running_balancer, running_worker, until

FINANCE = route({"rules": [{"keywords": ["账单"], "model": "expert-a"}], "default": "base"}).to_json()
MODELS = ("base", "expert-a", "expert-b")
Code = grpc.StatusCode


def _event(text: str | None, end: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": end}
    return b"data: " + json.dumps({"id": "x", "choices": [choice]}).encode() + b"\n\n"


async def _begun(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    return response


async def _streams(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    response = await _begun(request)
    for text in ("你", "好", body["model"]):
        await response.write(_event(text))
        await asyncio.sleep(0)
    await response.write(_event("", "stop") + b"data: [DONE]\n\n")
    return response


@dataclass
class Called:
    """A balancer, its worker, and a channel to it."""

    balancer: Balanced
    worker: Worker
    channel: grpc.aio.Channel
    target: str

    def call(self, *metadata: tuple[str, str], timeout: float | None = DEADLINE_S, **fields: Any) -> Any:
        return rpccalls.call(self.channel, *metadata, timeout=timeout, **fields)

    async def chat(self, *metadata: tuple[str, str], **fields: Any) -> list[tuple[str, bool]]:
        return [(chunk.text_delta, chunk.finished) async for chunk in self.call(*metadata, **fields)]

    async def failure(self, *metadata: tuple[str, str], **fields: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await self.chat(*metadata, **fields)
        return failed.value


@asynccontextmanager
async def _called(folder: Path, answer: Any = _streams, keys: Any = (), **config: Any) -> AsyncIterator[Called]:
    listener = listening()
    target = f"127.0.0.1:{listener.getsockname()[1]}"
    async with (
        running_balancer(folder, listener, **config) as balancer, running_worker("instance_0", answer) as worker,
        rpccalls.channel(target) as channel,
    ):  # fmt: skip
        balancer.push(worker.spec(models=MODELS), names={"finance": FINANCE})
        if keys:
            made = [key.to_json() for key in keys]
            balancer.parts.keys.apply({"version": [1, 1], "keyed": True, "keys": made})
        yield Called(balancer, worker, channel, target)
    listener.close()


@pytest.mark.parametrize(
    ("fields", "model"),
    [
        ({"prompt": "我的账单"}, "expert-a"), ({}, "base"), ({"expert_id": ""}, "base"),
        ({"prompt": "我的账单", "expert_id": "expert-b"}, "expert-b"),
        ({"prompt": "账单", "expert_id": "finance"}, "expert-a"),
    ],
)  # fmt: skip
async def test_the_text_comes_as_it_is_made(tmp_path: Path, fields: dict[str, Any], model: str) -> None:
    async with _called(tmp_path) as called:
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
    async with _called(tmp_path) as called:
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
    async with _called(tmp_path) as called:
        error = await called.failure(**fields)
        assert error.code() is code and says in str(error.details())
        assert dict(error.trailing_metadata() or ())["x-request-id"]
        assert called.worker.seen == []


async def test_a_message_that_is_none_and_one_that_is_too_large(tmp_path: Path) -> None:
    async with _called(tmp_path) as called:
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

    async with _called(tmp_path, refuses) as called:
        error = await called.failure()
        assert (error.code(), error.details()) == (Code.INVALID_ARGUMENT, "too long")


async def test_a_caller_that_leaves_ends_it(tmp_path: Path) -> None:
    hold = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = await _begun(request)
        await response.write(_event("a"))
        await hold.wait()
        return response

    async with _called(tmp_path, slow) as called:
        call = called.call(timeout=None)
        assert (await call.read()).text_delta == "a" and called.balancer.in_flight == 1
        call.cancel()
        await until(lambda: called.balancer.in_flight == 0 and called.worker.open == 0)
        other = called.call(timeout=None)
        await other.read()
        await called.channel.close()
        await until(lambda: called.balancer.in_flight == 0 and called.worker.open == 0)
        crowd = called.balancer.parts.server.admission.crowd
        del call, other  # a channel of the library is closed once nobody holds a call of it
        gc.collect()
        await until(lambda: crowd.size == 0 and called.balancer.parts.server.connections == 0)


async def test_a_stream_that_breaks_off_is_no_answer(tmp_path: Path) -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = await _begun(request)
        await response.write(_event("a"))
        assert request.transport is not None
        request.transport.abort()
        return response

    async with _called(tmp_path, breaks, resume=False) as called:
        call = called.call()
        assert (await call.read()).text_delta == "a"
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call.read()
        assert failed.value.code() is Code.UNAVAILABLE


async def test_a_deadline_ends_it_wherever_it_is(tmp_path: Path) -> None:
    hold = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await hold.wait()
        return web.Response()

    async with _called(tmp_path, slow, max_concurrent=1) as called:
        first = asyncio.ensure_future(called.failure(timeout=0.6))
        await until(lambda: called.worker.open == 1)
        queued = await called.failure(timeout=0.2)
        assert queued.code() is Code.DEADLINE_EXCEEDED and len(called.worker.seen) == 1, "it never got to a worker"
        assert (await called.failure(("x-request-timeout", "0.1"), timeout=None)).code() is Code.DEADLINE_EXCEEDED
        assert (await first).code() is Code.DEADLINE_EXCEEDED
        await until(lambda: called.balancer.in_flight == 0 and called.worker.open == 0)


async def test_who_waits_gets_its_turn_and_one_too_many_is_told_when_to_come_back(tmp_path: Path) -> None:
    hold = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        await hold.wait()
        return await _streams(request)

    async with _called(tmp_path, slow, max_concurrent=1, max_queue=1) as called:
        first, second = (asyncio.ensure_future(called.chat()) for _ in range(2))
        await until(lambda: called.worker.open == 1)
        await until(lambda: len(called.balancer.parts.shared.admission) == 1)
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
        response = await _begun(request)
        while True:
            await response.write(_event("x" * 10_000))
            written += 10_000

    async with _called(tmp_path, floods, send_timeout=0.5) as called:
        small = {"grpc.http2.lookahead_bytes": 70_000, "grpc.http2.bdp_probe": 0}
        async with rpccalls.channel(called.target, **small) as slow:
            call = slow.unary_stream(CHAT)(rpccalls.MESSAGES.request(prompt="x").SerializeToString())
            await call.read()
            before = -1
            while before != written:
                before = written
                await asyncio.sleep(0.1)
            assert written < 8_000_000, "what is kept for it is bounded"
            await until(lambda: called.balancer.in_flight == 0 and called.worker.open == 0)
            assert called.balancer.metric("clusterctl_slow_readers_total") == 1.0
        called.worker.answer = _streams
        assert len(await called.chat()) == 4


async def test_keys_models_and_rates(tmp_path: Path) -> None:
    (bound, digest), (slow, other) = mint(), mint()
    made = [
        ApiKey("bound", digests=(Digest(digest),), models=("expert-b",)),
        ApiKey("slow", digests=(Digest(other),), rpm=1),
    ]
    async with _called(tmp_path, keys=made) as called:
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
    async with _called(tmp_path, keys=[ApiKey("some", digests=(Digest(digest),))]) as called:
        for _ in range(3):
            await called.chat(("x-api-key", secret))

        async def rows() -> list[Any]:
            return (await called.balancer.answer("GET", "/v1/cluster/usage?by=key,model"))[1]["usage"]

        while not (found := await rows()):
            await asyncio.sleep(0.05)
        assert [(row["key"], row["model"], row["requests"]) for row in found] == [("some", "base", 3)]


async def test_who_pings_all_the_time_is_cut_off(tmp_path: Path) -> None:
    ping = b"\0\0\x08\x06\0\0\0\0\0" + b"x" * 8
    async with _called(tmp_path) as called:
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
        return await _streams(request)

    async with _called(tmp_path, slow, max_connections=4) as called:
        two = [asyncio.ensure_future(called.chat()) for _ in range(2)]
        await until(lambda: called.worker.open == 2)
        error = await called.failure()
        assert error.code() is Code.UNAVAILABLE and "connections" in str(error.details())
        hold.set()
        assert [len(said) for said in await asyncio.gather(*two)] == [4, 4]
        assert len(await called.chat()) == 4


async def test_health_is_open_and_says_whether_there_is_a_worker(tmp_path: Path) -> None:
    key = ApiKey("some", digests=(Digest(mint()[1]),))
    async with _called(tmp_path, keys=[key]) as called:
        stub = health_pb2_grpc.HealthStub(called.channel)
        statuses = health_pb2.HealthCheckResponse
        for service in ("", contract.SERVICE):
            asked = health_pb2.HealthCheckRequest(service=service)
            assert (await stub.Check(asked)).status == statuses.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stub.Check(health_pb2.HealthCheckRequest(service="nothing"))
        assert failed.value.code() is Code.NOT_FOUND
        watch = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == statuses.SERVING
        crowd = called.balancer.parts.server.admission.crowd
        assert crowd.size == 3, "one that watches counts as well, beside the two of its connection"
        called.balancer.push()
        assert (await watch.read()).status == statuses.NOT_SERVING
        called.balancer.push(called.worker.spec(models=MODELS))
        assert (await watch.read()).status == statuses.SERVING


async def test_reflection_describes_what_there_is(tmp_path: Path) -> None:
    async with _called(tmp_path) as called:
        stub = reflection_pb2_grpc.ServerReflectionStub(called.channel)
        asked = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol=contract.SERVICE),
        ]
        names, file = [answer async for answer in stub.ServerReflectionInfo(iter(asked))]
        listed = {service.name for service in names.list_services_response.service}
        assert {contract.SERVICE, "grpc.health.v1.Health"} < listed
        (found,) = file.file_descriptor_response.file_descriptor_proto
        assert found == contract.descriptor().SerializeToString()


@pytest.mark.parametrize("most", [1, 2])
async def test_a_connection_takes_two_places_or_none(tmp_path: Path, most: int) -> None:
    async with _called(tmp_path, max_connections=most) as called:
        crowd, (host, _, port) = called.balancer.parts.server.admission.crowd, called.target.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        if most == 1:
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""
        else:
            await until(lambda: crowd.size == 2)
        writer.close()
        await until(lambda: crowd.size == 0 and called.balancer.parts.server.connections == 0)


async def test_what_strangers_send_and_callers_that_leave_are_nothing_for_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def floods(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = await _begun(request)
        while True:
            await response.write(_event("x" * 10_000))

    async with _called(tmp_path, floods) as called:
        health, described = "/grpc.health.v1.Health/Check", f"/{SERVED[2]}/ServerReflectionInfo"
        for call in (
            called.channel.unary_unary(health)(b"\xff\xff"),
            called.channel.stream_stream(described)(iter([b"\xff\xff"])).read(),
            called.channel.unary_stream(CHAT)(b"\xff\xff").read(),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call
            assert failed.value.code() is Code.INVALID_ARGUMENT
        await called.failure(timeout=0.3)
        call = called.call(timeout=None)
        await call.read()
        for connection in list(called.balancer.parts.server._connections):
            if isinstance(connection, RpcConnection):
                connection.cut()
        await until(lambda: called.balancer.in_flight == 0 and called.balancer.parts.server.connections == 0)
        host, _, port = called.target.rpartition(":")
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 200):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(data)
            await asyncio.wait_for(reader.read(), DEADLINE_S)
            writer.close()
    assert not [record for record in caplog.records if record.name.startswith(("grpc", "asyncio"))]


async def test_one_that_comes_past_the_port_is_nobody(tmp_path: Path) -> None:
    """The socket behind it lies in a folder of the cluster's own user; whoever gets there is let in no further."""
    async with _called(tmp_path) as called:
        rpc = called.balancer.parts.rpc
        assert isinstance(rpc, server.RpcServer)
        async with rpccalls.channel(f"unix:{rpc._path}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await channel.unary_stream(CHAT)(b"").read()
        assert failed.value.code() is Code.PERMISSION_DENIED


async def test_a_replaced_balancer_finishes_what_it_has_and_refuses_nothing(tmp_path: Path) -> None:
    """Callers that never stop, on one connection each, while one balancer after another takes the place of the one
    before on the same socket."""
    listener = listening()
    target = f"127.0.0.1:{listener.getsockname()[1]}"
    done, stop = 0, False

    async def caller(channel: grpc.aio.Channel) -> None:
        nonlocal done
        called = Called(None, None, channel, target)  # type: ignore[arg-type]
        while not stop:
            assert len(await called.chat(timeout=30.0)) == 4
            done += 1

    folders = [tmp_path / str(number) for number in range(4)]
    for folder in folders:
        folder.mkdir()
    async with running_worker("instance_0", _streams) as worker, running_balancer(folders[0], listener) as first:
        first.push(worker.spec(models=MODELS), names={"finance": FINANCE})
        channels = [rpccalls.channel(target) for _ in range(8)]
        callers = [asyncio.ensure_future(caller(channel)) for channel in channels]
        async with AsyncExitStack() as stack:
            before = first
            for folder in folders[1:]:
                after = await stack.enter_async_context(running_balancer(folder, listener))
                after.push(worker.spec(models=MODELS), names={"finance": FINANCE})
                assert before.parts.rpc is not None
                before.parts.rpc.retire()
                await asyncio.wait_for(before.parts.server.retire(30.0), DEADLINE_S)
                count, before = done, after
                await until(lambda count=count: done > count + 20)  # type: ignore[misc]
            stop = True
            await asyncio.gather(*callers)
        for channel in channels:
            await channel.close()
    listener.close()
