"""What else is served over gRPC, and what connections leave behind."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest
from aiohttp import web
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import rpccalls
from config.identity.api_keys import ApiKey, Digest, mint
from fakes import soon
from lb.rpc import contract, server
from lb.rpc.connection import RpcConnection
from lb.rpc.services import CHAT, SERVED
from lbfakes import DEADLINE_S, listening, running_balancer, running_worker
from rpcserved import FINANCE, MODELS, Called, Code, an_event, begun_stream, calling, streamed


async def test_health_is_open_and_says_whether_there_is_a_worker(tmp_path: Path) -> None:
    key = ApiKey("some", digests=(Digest(mint()[1]),))
    async with calling(tmp_path, keys=[key]) as called:
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
    async with calling(tmp_path) as called:
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


async def test_what_strangers_send_and_callers_that_leave_are_nothing_for_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def floods(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = await begun_stream(request)
        while True:
            await response.write(an_event("x" * 10_000))

    async with calling(tmp_path, floods) as called:
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
        await soon(lambda: called.balancer.in_flight == 0 and called.balancer.parts.server.connections == 0)
        host, _, port = called.target.rpartition(":")
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 200):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(data)
            await asyncio.wait_for(reader.read(), DEADLINE_S)
            writer.close()
    assert not [record for record in caplog.records if record.name.startswith(("grpc", "asyncio"))]


async def test_one_that_comes_past_the_port_is_nobody(tmp_path: Path) -> None:
    """The socket behind it lies in a folder of the cluster's own user; whoever gets there is let in no further."""
    async with calling(tmp_path) as called:
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
    async with running_worker("instance_0", streamed) as worker, running_balancer(folders[0], listener) as first:
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
                await soon(lambda count=count: done > count + 20)  # type: ignore[misc]
            stop = True
            await asyncio.gather(*callers)
        for channel in channels:
            await channel.close()
    listener.close()
