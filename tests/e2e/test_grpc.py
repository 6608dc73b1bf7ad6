"""gRPC of a real cluster: what its callers notice of workers that die and balancers that are replaced."""

from __future__ import annotations

import asyncio
import errno
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

import rpccalls
from harness import Cluster, free_port, poll

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "grpc_chat.py"
LONG = {"prompt": "tell me a story", "expert_id": "demo", "max_tokens": 60, "temperature": 0.0}


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Cluster]:
    """Two balancer processes in front of two workers whose streams take their time."""
    cluster = Cluster(tmp_path_factory.mktemp("grpc"), free_port())
    _up(cluster, port)
    yield cluster
    cluster.close()


def _up(cluster: Cluster, port: int) -> None:
    result = cluster.up(
        "--engine", "sim", "--instances", "2", "--lb-processes", "2", "--grpc-port", str(port), "--", "--ttft-ms", "1",
        "--itl-ms", "30", "--max-num-seqs", "256",
    )
    assert result.returncode == 0, result.stderr
    cluster.wait_ready(2)


def _pids(cluster: Cluster) -> set[int]:
    return {process["pid"] for process in cluster.status()["load_balancer"]["processes"]}


def _replace(cluster: Cluster) -> None:
    before = _pids(cluster)
    assert cluster.post("/v1/cluster/restart", {"instance_id": "lb"}).status_code == 202
    poll(lambda: not before & _pids(cluster) and not cluster.status()["load_balancer"]["replacing"], 30, "others serve")


@asynccontextmanager
async def _callers(port: int, count: int) -> AsyncIterator[list[str]]:
    """So many that do not stop to call, each over a connection of its own; the texts they got. None may fail."""
    texts: list[str] = []
    stop = asyncio.Event()

    async def caller() -> None:
        async with rpccalls.channel(f"127.0.0.1:{port}") as channel:
            while not stop.is_set():
                said = await rpccalls.chat(channel, timeout=30.0, **{**LONG, "max_tokens": 5})
                assert said[-1][1], "finished"
                texts.append("".join(text for text, _ in said))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(count):
            tasks.create_task(caller())
        yield texts
        stop.set()


async def test_neither_a_worker_that_dies_nor_another_balancer_fails_a_call(served: Cluster, port: int) -> None:
    async with rpccalls.channel(f"127.0.0.1:{port}") as channel:
        whole = await rpccalls.chat(channel, timeout=30.0, **LONG)
        assert whole[-1][1] and len(whole) > 20
        text = "".join(part for part, _ in whole)
        streams = [asyncio.ensure_future(rpccalls.chat(channel, timeout=60.0, **LONG)) for _ in range(6)]
        async with _callers(port, 6) as texts:
            await asyncio.to_thread(poll, lambda: served.status()["load_balancer"]["in_flight"] >= 6, 10, "they run")
            worker = (await asyncio.to_thread(served.instance, "instance_0"))["pid"]
            os.kill(worker, signal.SIGKILL)
            for said in await asyncio.gather(*streams):
                assert "".join(part for part, _ in said) == text and said[-1][1], "it went on on the other worker"
            metrics = (await asyncio.to_thread(served.ask, "GET", "/metrics")).text
            moved = [line for line in metrics.splitlines() if line.startswith("clusterctl_streams_moved_total{")]
            assert sum(float(line.rpartition(" ")[2]) for line in moved) >= 1
            await asyncio.to_thread(served.wait_ready, 2)
            for _ in range(2):
                before = len(texts)
                await asyncio.to_thread(_replace, served)
                while len(texts) < before + 12:
                    await asyncio.sleep(0.05)
        assert len(set(texts)) == 1
    await asyncio.to_thread(poll, lambda: not served.status()["load_balancer"]["draining"], 20, "the old ones finish")
    assert len(list(served.state_dir.glob("*.grpc"))) == 2, "of those that serve"


async def test_the_next_supervisor_gets_the_socket_from_a_balancer(served: Cluster, port: int) -> None:
    supervisor = (await asyncio.to_thread(served.status))["supervisor"]["pid"]
    os.kill(supervisor, signal.SIGKILL)
    async with _callers(port, 2) as texts:
        await asyncio.to_thread(_up, served, port)
        await asyncio.to_thread(_replace, served)
        before = len(texts)
        while len(texts) < before + 4:
            await asyncio.sleep(0.05)


async def test_the_example_prints_the_text(served: Cluster, port: int) -> None:
    async def run(*more: str) -> tuple[int | None, str, str]:
        words = (sys.executable, str(EXAMPLE), f"127.0.0.1:{port}", "tell me a story", *more)
        made = await asyncio.create_subprocess_exec(*words, stdout=PIPE, stderr=PIPE)
        out, err = await made.communicate()
        return made.returncode, out.decode(), err.decode()

    async with rpccalls.channel(f"127.0.0.1:{port}") as channel:
        said = await rpccalls.chat(channel, timeout=30.0, **{**LONG, "max_tokens": 8})
    code, out, err = await run("--expert", "demo", "--max-tokens", "8")
    assert (code, out) == (0, "".join(text for text, _ in said) + "\n"), err
    code, out, err = await run()
    assert (code, out) == (1, "") and err.startswith("NOT_FOUND: "), "there is no route"


async def test_a_port_that_is_taken_is_said_at_the_start(served: Cluster, port: int, cluster: Cluster) -> None:
    result = await asyncio.to_thread(cluster.up, "--engine", "sim", "--grpc-port", str(port))
    assert result.returncode == 1 and f"cannot listen on 127.0.0.1:{port}" in result.stderr
    async with rpccalls.channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await rpccalls.chat(channel, expert_id="nobody")
        assert failed.value.code() is grpc.StatusCode.NOT_FOUND


async def test_the_next_supervisor_serves_on_the_port_that_it_is_told(served: Cluster, port: int) -> None:
    """The balancers that it adopts serve on the one before: they are replaced, and that one is closed."""
    before = _pids(served)
    os.kill(served.status()["supervisor"]["pid"], signal.SIGKILL)
    another = free_port()
    await asyncio.to_thread(_up, served, another)
    await asyncio.to_thread(poll, lambda: not before & _pids(served), 30, "others serve")
    async with rpccalls.channel(f"127.0.0.1:{another}") as channel:
        assert (await rpccalls.chat(channel, timeout=30.0, **{**LONG, "max_tokens": 5}))[-1][1]
    await asyncio.to_thread(poll, lambda: _refused(port), 30, "nobody listens there any more")


def _refused(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED
