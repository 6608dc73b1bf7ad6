"""What the control plane costs with many workers: the real supervisor and a real balancer over a driver whose workers
are no processes. ``python tests/bench/control_plane.py [--workers 100,300,1000]``.

The workers answer probes out of one process beside this one, each at a port of its own. Measured once all of them are
ready, in seconds of this process's processor time, as other programs use the machine: one round of the reconciler, a
status as a client gets it, and from a worker's end to the balancer that goes by a backend set without it; and what one
more worker takes of memory.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
import pytest
from aiohttp import web

from cluster.deployment import plan
from cluster.fleet.placement import Machine
from cluster.fleet.reconciler import reconcile
from config.settings import load
from fakedriver import FakeDriver
from inprocess import InProcess, assembled, until
from lbfakes import card
from worker import progress
from worker.spec import SEATS, WorkerEndpoint

ROUNDS = 20
MODEL = "demo"


@dataclass(frozen=True, slots=True)
class Seen:
    """Seconds, medians of `ROUNDS`; memory in bytes, of the supervisor and the balancer together."""

    workers: int
    all_ready: float
    reconcile: float
    status: float
    pushed: float
    memory: int


class Remote(FakeDriver):
    """Workers that listen at ``ports`` all the time, whether they are started or not."""

    def __init__(self, ports: list[int]) -> None:
        super().__init__()
        self._ports = ports

    def reserve(self, taken: Collection[WorkerEndpoint]) -> WorkerEndpoint:
        used = {endpoint.port for endpoint in taken}
        return WorkerEndpoint(next(port for port in self._ports if port not in used))


async def answer(count: int) -> None:
    """The workers' process: prints its ports, and answers until it is killed."""
    app = web.Application()
    held: dict[int, dict[str, str]] = {}

    def of(request: web.Request) -> dict[str, str]:
        assert request.transport is not None
        return held.setdefault(request.transport.get_extra_info("sockname")[1], {})

    async def models(request: web.Request) -> web.Response:
        adapters = ({**card(name, MODEL), "root": path} for name, path in of(request).items())
        return web.json_response({"object": "list", "data": [card(MODEL), *adapters]})

    async def load(request: web.Request) -> web.Response:
        body = await request.json()
        of(request)[body["lora_name"]] = body["lora_path"]
        return web.Response()

    completion = {"object": "text_completion", "model": MODEL, "choices": [{"index": 0, "text": "a"}], "usage": {}}
    app.router.add_get("/health", _said(""))
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/load_lora_adapter", load)
    app.router.add_get("/metrics", _said("".join(f"{series} 0\n" for series in progress._SERIES)))
    app.router.add_get(SEATS, _said('{"seats": 256}'))
    app.router.add_post("/v1/completions", _said(json.dumps(completion)))
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    ports = []
    for _ in range(count):
        listener = socket.create_server(("127.0.0.1", 0))
        ports.append(listener.getsockname()[1])
        await web.SockSite(runner, listener).start()
    print(json.dumps(ports), flush=True)
    await asyncio.Event().wait()


def _said(text: str) -> Any:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=text, content_type="application/json")

    return handler


@contextlib.asynccontextmanager
async def workers(count: int) -> AsyncIterator[list[int]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--answer", str(count), stdout=asyncio.subprocess.PIPE, limit=1 << 20
    )
    assert process.stdout is not None
    try:
        yield json.loads(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()


async def measure(count: int) -> Seen:
    machine = Machine((), tuple(range(count)), 2**44)
    given = {"engine": "sim", "lb_standby": False, "instances": count}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        before = psutil.Process().memory_info().rss
        async with workers(count + 1) as ports:
            made = [replace(plan.make(load(given), machine), group="default")]
            async with assembled(Path(folder), patch, made, Remote(ports), tick=0.2, patience=300) as cluster:
                began = time.process_time()
                await ready(cluster, count)
                took = time.process_time() - began
                rounds, statuses, pushes = [], [], []
                for number in range(ROUNDS):
                    rounds.append(one_round(cluster))
                    statuses.append(await one_status(cluster))
                    pushes.append(await one_push(cluster, number))
                    await ready(cluster, count)
                memory = psutil.Process().memory_info().rss - before
                return Seen(count, took, *map(statistics.median, (rounds, statuses, pushes)), memory)


async def ready(cluster: InProcess, count: int) -> None:
    await until(lambda: _has(cluster, count), timeout=300)


async def _has(cluster: InProcess, count: int) -> bool:
    await asyncio.sleep(0.05)
    return sum(backend.spec.state == "ready" for backend in cluster.balancer.parts.pool.backends.values()) == count


def one_round(cluster: InProcess) -> float:
    fleet = cluster.parts.fleet
    began = time.process_time()
    reconcile(fleet.intent.desired, fleet.observed(), cluster.clock())
    return time.process_time() - began


async def one_status(cluster: InProcess) -> float:
    began = time.process_time()
    await cluster.status()
    return time.process_time() - began


async def one_push(cluster: InProcess, number: int) -> float:
    """From a worker's end to the balancer that knows of it."""
    name = f"instance_{number}"
    pool, handle = cluster.balancer.parts.pool, cluster.parts.fleet.instances[name].handle
    assert handle is not None
    began = time.process_time()
    handle.die(-9)  # type: ignore[attr-defined]
    async with asyncio.timeout(60):
        while (backend := pool.backends.get(name)) is not None and backend.spec.state == "ready":
            await asyncio.sleep(0.001)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", default="100,300,1000", help="how many, one measurement each")
    parser.add_argument("--answer", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    logging.disable()  # each end is told
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    if given.answer:
        asyncio.run(answer(given.answer))
        return
    print("workers  ready s  reconcile ms  status ms  pushed ms  KiB a worker")
    for count in map(int, given.workers.split(",")):
        seen = asyncio.run(measure(count))
        print(
            f"{count:7}  {seen.all_ready:7.1f}  {seen.reconcile * 1e3:12.2f}  {seen.status * 1e3:9.1f}  "
            f"{seen.pushed * 1e3:9.1f}  {seen.memory / count / 1024:12.1f}", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
