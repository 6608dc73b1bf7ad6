"""What the simulation says of strategies is so over HTTP: the real balancer and simulated workers with the profile, in
one event loop whose time is moved."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest
from aiohttp import web

import movedloop
from adapterload import ADAPTERS, SLOTS, WORKERS, Seen, drive, rank_of, requests, simulated
from config.topology import BackendSpec
from lb import app
from lbfakes import backend_set, card, listening, running_balancer
from sim.simulation import Request
from worker.sim.api.app import build
from worker.sim.engine.lora import SimAdapter
from worker.sim.settings import parse
from worker.sim.worker import Worker

pytestmark = pytest.mark.long

NAMES = [f"a{number}" for number in range(ADAPTERS)]
FLAGS = (
    "--profile", "h100-8b", "--enable-lora", "--max-loras", str(SLOTS), "--max-cpu-loras", str(ADAPTERS),
    "--max-model-len", "8192",
)  # fmt: skip


@asynccontextmanager
async def running_worker(number: int) -> AsyncIterator[tuple[BackendSpec, Callable[[], int]]]:
    """One that holds all adapters in host memory, and what ends it at once and tells how many streams it had."""
    worker = Worker(parse(FLAGS, {}, 0.0), cast(Any, None), cast(Any, None))
    for index, name in enumerate(NAMES):
        worker.adapters.loaded[name] = SimAdapter(name, name, rank=rank_of(index))
        worker.adapters._schedule.hold(name, rank_of(index))
    runner = web.AppRunner(build(worker), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    listener, server = listening(), runner.server
    assert server is not None
    accepting = await asyncio.get_running_loop().create_server(server, sock=listener)

    def die() -> int:
        running: int = worker.engine.counts()["running"]
        accepting.close()
        for connection in server.connections:
            if connection.transport is not None:
                connection.transport.abort()
        return running

    try:
        spec = BackendSpec(
            id=f"instance_{number}", incarnation=1, state="ready", scheme="http", host="127.0.0.1", ip="127.0.0.1",
            port=listener.getsockname()[1], models=(card("demo"), *(card(name, "demo") for name in NAMES)),
            seats=256, slots=SLOTS, places=ADAPTERS,
        )  # fmt: skip
        yield spec, die
    finally:
        accepting.close()
        await runner.cleanup()


async def over_http(folder: Path, strategy: str, load: Sequence[Request], deaths: Mapping[float, list[int]]) -> Seen:
    """A worker dies at each of the times ``deaths``, where the number of its streams is put down."""
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(running_worker(number)) for number in range(WORKERS)]
        balancer = await stack.enter_async_context(running_balancer(folder, queue_timeout=1000.0))
        cards = tuple(card(name, "demo") for name in NAMES)
        ranks = {name: rank_of(index) for index, name in enumerate(NAMES)}
        given = {"strategy": strategy, "registered": cards, "ranks": ranks}
        assert balancer.parts.pool.apply(backend_set(*(spec for spec, _ in workers), **given))
        events = [
            (at, lambda die=die, streams=streams: streams.append(die()))
            for (at, streams), (_, die) in zip(deaths.items(), workers, strict=False)
        ]
        return await drive(balancer.port, load, 1.0, events)


def test_times_over_http_are_those_of_the_simulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the load where the p99 of least connections reaches 2 s. To as many digits as the clocks have: where the
    balancer takes a prompt for 7 % shorter than the simulation does, one choice of 300 between two workers that are as
    good as each other falls the other way, and the p99 with it (0.67 s in place of 0.50)."""
    load, p99 = requests(300, 24.0, 1), {}
    monkeypatch.setattr(app, "Random", lambda: Random(0))  # ties are drawn, here as there
    for strategy in ("least_connections", "adaptive"):
        folder = tmp_path / strategy
        folder.mkdir()

        async def main(folder: Path = folder, strategy: str = strategy) -> Seen:
            monkeypatch.setattr(time, "monotonic", asyncio.get_running_loop().time)
            return await over_http(folder, strategy, load, {})

        seen, expected = movedloop.run(main()), simulated(load, strategy)
        assert seen.failed == 0
        for share in (0.5, 0.9, 0.99):
            assert seen.percentile(share) == pytest.approx(expected.percentile(share), rel=1e-6)
        p99[strategy] = seen.percentile(0.99)
    assert p99["least_connections"] > 2
    assert p99["adaptive"] <= p99["least_connections"] / 2


def test_nothing_fails_where_two_of_four_workers_die(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, deaths = requests(100, 10.0, 2), {3.0: list[int](), 6.0: list[int]()}

    async def main() -> Seen:
        monkeypatch.setattr(time, "monotonic", asyncio.get_running_loop().time)
        return await over_http(tmp_path, "adaptive", load, deaths)

    seen = movedloop.run(main())
    assert (seen.failed, len(seen.ttft)) == (0, 100)
    assert all(streams[0] > 0 for streams in deaths.values())
