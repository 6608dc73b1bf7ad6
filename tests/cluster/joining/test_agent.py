"""A machine that joins: its processes, over a listener that is all there is of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest
from aiohttp import web

import rpccalls
from certificates import issue
from config.identity.api_keys import ApiKey, Digest, mint
from harness import CLI, environment, free_port
from joinfakes import Supervisor
from lbfakes import Worker, backend_set, running_worker

pytestmark = pytest.mark.processes


async def _streams(_: web.Request) -> web.Response:
    chunk = b'data: {"id": "x", "choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]}\n\n'
    return web.Response(body=chunk + b"data: [DONE]\n\n", headers={"Content-Type": "text/event-stream"})


@pytest.fixture
async def worker(supervisor: Supervisor) -> AsyncIterator[Worker]:
    """Of the cluster, which all balancers are told of."""
    async with running_worker("instance_0", _streams) as made:
        supervisor.group.feed.publish(backend_set(made.spec()).to_json(), {"sequence": [1, 1]})
        yield made


class JoiningMachine:
    """What it is called with besides where to join, and where it has what."""

    def __init__(self, supervisor: Supervisor, folder: Path) -> None:
        self._supervisor, self.state_dir = supervisor, folder / "joined"
        self.port, self.grpc_port, self.log = free_port(), free_port(), folder / "log"

    @asynccontextmanager
    async def serving(self, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """In the foreground, until the block ends; it is a member from the first time on."""
        token = (await self._supervisor.token()).text()
        with self.log.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                CLI, "balancer", "--join", f"https://127.0.0.1:{self._supervisor.port}", "--port", str(self.port),
                "--state-dir", str(self.state_dir), *options, stdout=log, stderr=log,
                env=environment(CLUSTERCTL_JOIN_TOKEN=token),
            )  # fmt: skip
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                await process.wait()


@pytest.fixture
def machine(supervisor: Supervisor, tmp_path: Path) -> JoiningMachine:
    return JoiningMachine(supervisor, tmp_path)


async def _code(channel: grpc.aio.Channel, *metadata: tuple[str, str]) -> grpc.StatusCode:
    try:
        assert await rpccalls.chat(channel, *metadata, expert_id="base") == [("hi", True)]
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_grpc_is_spoken_there_by_the_clusters_keys_and_the_machines_certificate(
    supervisor: Supervisor, worker: Worker, machine: JoiningMachine, tmp_path: Path
) -> None:
    issued = issue(tmp_path / "tls")
    secret, digest = mint()
    key = ApiKey("all", digests=(Digest(digest),)).to_json()
    tls = ("--tls-cert", str(issued.cert), "--tls-key", str(issued.key))
    async with machine.serving("--grpc-port", str(machine.grpc_port), *tls):
        credentials = grpc.ssl_channel_credentials(issued.cert.read_bytes())
        async with grpc.aio.secure_channel(f"localhost:{machine.grpc_port}", credentials) as channel:
            await asyncio.wait_for(channel.channel_ready(), 30)
            assert await _code(channel) is grpc.StatusCode.OK
            supervisor.group.feed.publish(
                keys={"type": "keys", "version": [1, 1], "keyed": True, "keys": [key]}
            )
            async with asyncio.timeout(10):
                while await _code(channel) is not grpc.StatusCode.UNAUTHENTICATED:
                    await asyncio.sleep(0.01)
            assert await _code(channel, ("authorization", f"Bearer {secret}")) is grpc.StatusCode.OK
    assert not list(machine.state_dir.glob("*.grpc")) and not (machine.state_dir / "tls.json").exists()


async def test_what_a_start_says_otherwise_than_the_one_that_was_killed_holds_for_what_it_left(
    worker: Worker, machine: JoiningMachine
) -> None:
    """gRPC on another port, which those that still serve do not listen on."""
    before, after = free_port(), free_port()
    async with machine.serving("--grpc-port", str(before)) as process:
        async with rpccalls.channel(f"127.0.0.1:{before}") as channel:
            await asyncio.wait_for(channel.channel_ready(), 30)
        process.kill()
        await process.wait()
        async with rpccalls.channel(f"127.0.0.1:{before}") as channel:
            assert await _code(channel) is grpc.StatusCode.OK, "they serve on"
    async with machine.serving("--grpc-port", str(after)), rpccalls.channel(f"127.0.0.1:{after}") as channel:
        await asyncio.wait_for(channel.channel_ready(), 30)
        assert await _code(channel) is grpc.StatusCode.OK
