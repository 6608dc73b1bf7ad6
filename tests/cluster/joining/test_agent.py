"""A machine that joins: its processes, over a listener that is all there is of a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from aiohttp import web

import rpccalls
from certificates import issue
from cluster.joining.roster import JoinToken
from cluster.storage import lock
from config.identity.api_keys import ApiKey, Digest, mint
from config.paths import StateDir, short_socket_path
from fakes import soon
from harness import CLI, clusterctl, environment, free_port
from joinfakes import Supervisor
from lbfakes import Worker, backend_set, running_worker
from worker.drivers import proc, run_file

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
        self.control = StateDir(self.state_dir).control

    def call(self, *options: str) -> list[str]:
        """The command line that has it join."""
        join = ("--join", f"https://127.0.0.1:{self._supervisor.port}", "--name", "second")
        return ["balancer", *join, "--port", str(self.port), "--state-dir", str(self.state_dir), *options]

    async def run(self, *args: str) -> subprocess.CompletedProcess[str]:
        """A command to its end, while the listener in this loop goes on."""
        env = {"CLUSTERCTL_JOIN_TOKEN": (await self._supervisor.token()).text()} if "--join" in args else {}
        return await asyncio.to_thread(clusterctl, *args, **env)

    async def command(self, name: str, *options: str) -> subprocess.CompletedProcess[str]:
        return await self.run("balancer", name, "--state-dir", str(self.state_dir), *options)

    @property
    def pids(self) -> set[int]:
        """Of all that runs, standby included."""
        found = filter(None, map(run_file.read, (self.state_dir / "run").glob("lb-*")))
        keeper = lock.pid(StateDir(self.state_dir)) if lock.held(StateDir(self.state_dir)) else None
        return {each.pid for each in found if proc.alive(each)} | ({keeper} if keeper else set())

    @asynccontextmanager
    async def serving(self, *options: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """In the foreground, until the block ends; it is a member from the first time on."""
        token = (await self._supervisor.token()).text()
        with self.log.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                CLI, *self.call(*options), stdout=log, stderr=log, env=environment(CLUSTERCTL_JOIN_TOKEN=token)
            )
            try:
                yield process
            finally:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
                await process.wait()


@pytest.fixture
async def machine(supervisor: Supervisor, tmp_path: Path) -> AsyncIterator[JoiningMachine]:
    made = JoiningMachine(supervisor, tmp_path)
    yield made
    if made.pids:
        await made.command("down", "--now")
    assert not made.pids


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


async def test_one_that_is_detached_is_shown_and_lets_requests_finish_when_it_ends(
    worker: Worker, machine: JoiningMachine
) -> None:
    done = await machine.run(*machine.call("--detach"))
    assert done.returncode == 0, done.stderr
    assert "as second; log in" in done.stdout and str(machine.state_dir / "logs" / "joined.log") in done.stdout
    assert not (machine.state_dir / "launch.json").exists(), "the token was in it"
    shown = json.loads((await machine.command("status", "--json")).stdout)
    assert shown["connected"] and {shown["pid"], *shown["balancers"]} <= machine.pids
    again = await machine.run(*machine.call("--detach"))
    assert again.returncode == 1 and "already runs on" in again.stderr

    hold, begun = asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        begun.set()
        await hold.wait()
        return web.json_response({"worker": "slow"})

    worker.answer = slow
    url = f"http://127.0.0.1:{machine.port}/v1/completions"
    async with httpx.AsyncClient(timeout=30) as client:
        asked = asyncio.create_task(client.post(url, json={"model": "base", "prompt": "x"}))
        await begun.wait()
        ending = asyncio.create_task(machine.command("down"))
        await soon(lambda: not _connects(machine.port))
        assert not ending.done() and not asked.done()
        hold.set()
        assert (await asked).status_code == 200
    assert ((await ending).returncode, (await ending).stdout) == (0, "down\n")
    assert not machine.pids and not (machine.state_dir / "joined.json").exists()
    assert (await machine.command("status")).returncode == 1


def _connects(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


async def test_it_keeps_a_standby_and_ends_requests_as_soon_as_the_cluster_says(
    supervisor: Supervisor, worker: Worker, machine: JoiningMachine
) -> None:
    group, never = supervisor.group, asyncio.Event()
    group.standby, group.drain_timeout, group.config = True, 600.0, replace(group.config, first_byte_timeout=600.0)
    assert (await machine.run(*machine.call("--detach"))).returncode == 0
    [balancer] = json.loads((await machine.command("status", "--json")).stdout)["balancers"]
    transport = httpx.AsyncHTTPTransport(uds=short_socket_path(machine.control))
    async with httpx.AsyncClient(transport=transport, timeout=30) as client:

        async def seen() -> dict[str, Any]:
            return (await client.get("http://machine/v1/cluster/snapshot")).json()  # type: ignore[no-any-return]

        async def until(condition: Callable[[dict[str, Any]], Any]) -> None:
            async with asyncio.timeout(30):
                while not condition(await seen()):
                    await asyncio.sleep(0.05)

        await until(lambda machine: machine["load_balancer"]["standby"])
        standby = (await seen())["load_balancer"]["standby"]
        os.kill(balancer, signal.SIGKILL)
        await until(lambda machine: machine["serving"] == [standby])
    group.drain_timeout = 0.2
    group.feed.joined[0].tell({"type": "config", **group.terms()})

    async def slow(_: web.Request) -> web.Response:
        begun.set()
        await never.wait()
        return web.json_response({})

    worker.answer, begun = slow, asyncio.Event()
    async with httpx.AsyncClient(timeout=None) as client:
        url = f"http://127.0.0.1:{machine.port}/v1/completions"
        asked = asyncio.create_task(client.post(url, json={"model": "base", "prompt": "x"}))
        await begun.wait()
        assert (await machine.command("down")).returncode == 0
        assert not never.is_set() and not machine.pids, "it did not wait for what never ends"
        with contextlib.suppress(httpx.HTTPError):
            assert (await asked).status_code >= 500
    never.set()


async def test_what_a_crash_leaves_is_shown_kept_from_a_cluster_and_ended(
    worker: Worker, machine: JoiningMachine
) -> None:
    assert (await machine.run(*machine.call("--detach"))).returncode == 0
    before = json.loads((await machine.command("status", "--json")).stdout)
    os.kill(before["pid"], signal.SIGKILL)
    await soon(lambda: before["pid"] not in machine.pids)
    shown = await machine.command("status")
    assert shown.returncode == 1 and "its process is gone" in shown.stdout
    assert f"balancers {before['balancers'][0]}" in shown.stdout
    refused = await machine.run("up", "--engine", "sim", "--state-dir", str(machine.state_dir), "--port", "1")
    assert refused.returncode == 1 and "`clusterctl balancer down` ends them" in refused.stderr
    elsewhere = await machine.run(*machine.call("--detach", "--port", str(machine.grpc_port)))
    assert elsewhere.returncode == 1 and f"listen on port {machine.port}" in elsewhere.stderr
    assert (await machine.run(*machine.call("--detach"))).returncode == 0
    after = json.loads((await machine.command("status", "--json")).stdout)
    assert after["balancers"] == before["balancers"], "adopted"
    os.kill(after["pid"], signal.SIGKILL)
    await soon(lambda: after["pid"] not in machine.pids)
    ended = await machine.run("down", "--state-dir", str(machine.state_dir))
    assert (ended.returncode, ended.stdout) == (0, "down\n"), ended.stderr
    assert not machine.pids


async def test_one_that_is_not_let_in_says_so_and_leaves_nothing(
    supervisor: Supervisor, machine: JoiningMachine
) -> None:
    wrong = JoinToken("0a1b2c3d", "x" * 43, (await supervisor.token()).fingerprint).text()
    done = await machine.run(*machine.call("--detach", "--token", wrong))
    assert done.returncode == 1 and "does not let this machine in" in done.stderr and wrong not in done.stderr
    assert not machine.pids and not (machine.state_dir / "joined.json").exists()


async def test_what_a_crash_left_of_one_that_was_evicted_meanwhile_ends(
    supervisor: Supervisor, worker: Worker, machine: JoiningMachine
) -> None:
    """Also where it is turned away before it has taken them over, as one that hands nothing over takes its time."""
    assert (await machine.run(*machine.call("--detach"))).returncode == 0
    shown = json.loads((await machine.command("status", "--json")).stdout)
    os.kill(shown["pid"], signal.SIGKILL)
    os.kill(shown["balancers"][0], signal.SIGSTOP)
    await supervisor.members.evict("second")
    done = await machine.run(*machine.call("--detach"))
    assert done.returncode == 1 and "evicted" in done.stderr
    assert not machine.pids
