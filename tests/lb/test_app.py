from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from config.link import encode
from config.topology import BalancerConfig
from lbfakes import DEADLINE_S, Balanced, Worker, backend_set, listening

ROOT = Path(__file__).resolve().parents[2]


async def test_an_error_nobody_thought_of_is_500_without_a_traceback(balancer: Balanced) -> None:
    with mock.patch.object(balancer.parts.pool, "models", side_effect=RuntimeError("secret")):
        status, answer = await balancer.answer("GET", "/v1/models")
    assert (status, answer["error"]["type"]) == (500, "InternalServerError")
    assert "secret" not in json.dumps(answer)
    assert balancer.metric("clusterctl_refused_total", source="internal", code="500") == 1


async def test_requests_refused_by_the_balancer_are_counted(balancer: Balanced) -> None:
    await balancer.answer("GET", "/nothing")
    assert balancer.metric("clusterctl_refused_total", source="client", code="404") == 1


async def test_the_machines_name_is_one_of_the_clusters(balancer: Balanced) -> None:
    headers = {"Host": f"{socket.gethostname()}:{balancer.port}"}
    assert (await balancer.answer("GET", "/v1/cluster/status", headers=headers))[0] == 200


async def test_a_name_set_by_the_user_is_one_too(start_balancer: Callable[..., Awaitable[Balanced]]) -> None:
    balancer = await start_balancer(allowed_hosts=("cluster.example",))
    assert (await balancer.answer("GET", "/v1/cluster/status", headers={"Host": "cluster.example"}))[0] == 200


async def test_counts_go_on_where_an_earlier_balancer_stopped(
    start_balancer: Callable[..., Awaitable[Balanced]], start_worker: Callable[..., Awaitable[Worker]], tmp_path: Path
) -> None:
    worker = await start_worker()
    first = await start_balancer()
    first.push(worker.spec())
    await first.ask()
    second = await start_balancer()
    second.push(worker.spec())
    await second.ask()
    assert second.counts() == (2, 0)


async def start_process(folder: Path, listener: socket.socket) -> asyncio.subprocess.Process:
    """A balancer as the supervisor starts it."""
    config: dict[str, Any] = BalancerConfig(
        listen_fd=listener.fileno(), state_dir=str(folder), host="127.0.0.1", port=listener.getsockname()[1],
        queue_timeout=5,
    ).to_json()  # fmt: skip
    (folder / "lb.json").write_text(json.dumps({**config, "link": str(folder / "lb.sock")}))
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "lb", str(folder / "lb.json"), pass_fds=[listener.fileno()], cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )


async def _connected(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """As soon as somebody listens there: the file is there a moment before."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await asyncio.open_unix_connection(str(path))
            except OSError:
                await asyncio.sleep(0.01)


@pytest.mark.processes
async def test_the_process_serves_until_sigterm_and_leaves_nothing(
    tmp_path: Path, start_worker: Callable[..., Awaitable[Worker]]
) -> None:
    worker = await start_worker()
    with listening() as listener:
        process = await start_process(tmp_path, listener)
        try:
            reader, writer = await _connected(tmp_path / "lb.sock")
            hello = {"type": "hello", "pid": process.pid, "phase": "starting", "changes": True}
            assert json.loads(await reader.readline()) == hello
            writer.write(encode({"type": "set", "set": backend_set(worker.spec()).to_json()}))
            await asyncio.wait_for(reader.readline(), DEADLINE_S)
            client, to = await asyncio.open_connection(*listener.getsockname())
            to.write(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await asyncio.wait_for(client.read(), DEADLINE_S)).endswith(b'{"worker": "instance_0"}')
            os.kill(process.pid, signal.SIGTERM)
            to.close()
            writer.close()
            assert await asyncio.wait_for(process.wait(), DEADLINE_S) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.stderr is not None
        assert await process.stderr.read() == b""
    assert not (tmp_path / "lb.sock").exists()
