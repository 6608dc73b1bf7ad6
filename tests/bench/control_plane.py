"""What the control plane costs with many workers: the real supervisor and a real balancer over a driver whose workers
are no processes. ``python tests/bench/control_plane.py [--workers 100,300,1000]``.

The workers stand on 100 nodes, which are addresses of loopback, and answer probes out of one process, each at a port of
its own. Each number of them is measured in a process of its own, once all are ready, in milliseconds of that process's
processor time, as other programs use the machine: one round of the reconciler, a status as a client gets it, and from a
worker's end to the balancer that goes by a backend set without it (supervisor and balancer are that one process, so the
work of both counts). Memory is what the process holds more than before, by worker; what one worker more takes is the
difference between two rows.
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
import subprocess
import sys
import tempfile
import time
from collections import Counter
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
from fakes import Clock
from inprocess import InProcess, assembled, until
from lbfakes import card
from worker import progress
from worker.spec import SEATS, WorkerEndpoint

ROUNDS, NODES = 11, 100
MODEL = "demo"

#: Seconds in which nothing happens.
STEADY_S = 10.0


@dataclass(frozen=True, slots=True)
class Seen:
    """Seconds, medians of `ROUNDS`; memory in bytes, of the supervisor and the balancer together. ``started``: s on the
    clock until all were ready, ``all_ready`` of processor time; ``steady``: the share of a processor that it takes
    while nothing happens."""

    workers: int
    started: float
    all_ready: float
    steady: float
    reconcile: float
    status: float
    pushed: float
    memory: int


class Remote(FakeDriver):
    """Workers that listen at ``places`` all the time, whether they are started or not. A new one comes to the node
    where the fewest are, as by `worker.drivers.ray`."""

    def __init__(self, places: list[tuple[str, int]]) -> None:
        super().__init__()
        self._free: dict[str, list[WorkerEndpoint]] = {}
        for host, port in places:
            self._free.setdefault(host, []).append(WorkerEndpoint(port, host))

    def reserve(self, taken: Collection[WorkerEndpoint]) -> WorkerEndpoint:
        used = Counter(endpoint.host for endpoint in taken)
        there = set(taken)
        for host in sorted(self._free, key=lambda host: used[host]):
            if free := next((one for one in self._free[host] if one not in there), None):
                return free
        raise OSError("no room on any node")


async def answer(count: int) -> None:
    """The workers' process: prints where they are, and answers until whoever started it is gone."""
    app = web.Application()
    held: dict[tuple[str, int], dict[str, str]] = {}

    def of(request: web.Request) -> dict[str, str]:
        assert request.transport is not None
        return held.setdefault(request.transport.get_extra_info("sockname"), {})

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
    places = []
    for number in range(count):
        listener = socket.create_server((f"127.0.{number % NODES}.1", 0), backlog=1024)
        places.append(listener.getsockname())
        await web.SockSite(runner, listener).start()
    print(json.dumps(places), flush=True)
    await asyncio.to_thread(sys.stdin.read)


def _said(text: str) -> Any:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text=text, content_type="application/json")

    return handler


@contextlib.asynccontextmanager
async def workers(count: int) -> AsyncIterator[list[tuple[str, int]]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--answer", str(count), stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE, limit=1 << 20,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield [(host, port) for host, port in json.loads(await process.stdout.readline())]
    finally:
        process.kill()
        await process.wait()


async def measure(count: int) -> Seen:
    machine = Machine((), tuple(range(count)), 2**44)
    given = {"engine": "sim", "lb_standby": False, "instances": count}
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        before = psutil.Process().memory_info().rss
        async with workers(count + NODES) as places:
            made = [replace(plan.make(load(given), machine), group="default")]
            patch.setattr(Clock, "__init__", lambda clock: setattr(clock, "now", time.monotonic()))
            async with assembled(Path(folder), patch, made, Remote(places), tick=0.2, patience=300) as cluster:
                began, at = time.process_time(), time.monotonic()
                await ready(cluster, count)
                took, started = time.process_time() - began, time.monotonic() - at
                began, at = time.process_time(), time.monotonic()
                await asyncio.sleep(STEADY_S)
                steady = (time.process_time() - began) / (time.monotonic() - at)
                rounds, statuses, pushes = [], [], []
                for number in range(ROUNDS):
                    rounds.append(one_round(cluster))
                    statuses.append(await one_status(cluster))
                    pushes.append(await one_push(cluster, number))
                    await ready(cluster, count)
                memory = psutil.Process().memory_info().rss - before
                return Seen(count, started, took, steady, *map(statistics.median, (rounds, statuses, pushes)), memory)


async def ready(cluster: InProcess, count: int) -> None:
    await until(lambda: _has(cluster, count), timeout=300)


async def _has(cluster: InProcess, count: int) -> bool:
    await asyncio.sleep(0.05)
    cluster.clock.now = time.monotonic()  # which stands still otherwise
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
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    logging.disable()  # each end is told
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    if given.answer:
        asyncio.run(answer(given.answer))
        return
    if given.one:
        print(row(asyncio.run(measure(given.one))), flush=True)
        return
    print("workers  started s  of it processor s  steady %  reconcile ms  status ms  pushed ms  MiB  KiB a worker")
    for count in given.workers.split(","):
        subprocess.run([sys.executable, __file__, "--one", count], check=True)


def row(seen: Seen) -> str:
    return (
        f"{seen.workers:7}  {seen.started:9.1f}  {seen.all_ready:17.1f}  {seen.steady * 100:8.1f}  "
        f"{seen.reconcile * 1e3:12.2f}  {seen.status * 1e3:9.1f}  {seen.pushed * 1e3:9.1f}  "
        f"{seen.memory / 2**20:3.0f}  {seen.memory / seen.workers / 1024:12.1f}"
    )


if __name__ == "__main__":
    main()
