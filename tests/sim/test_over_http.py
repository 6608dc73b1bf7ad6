"""What the simulation says of strategies is so over HTTP: the real balancer and simulated workers with the profile, in
one event loop whose time is moved."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
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
from worker.sim.api.app import build
from worker.sim.engine.lora import SimAdapter
from worker.sim.settings import parse
from worker.sim.worker import Worker

NAMES = [f"a{number}" for number in range(ADAPTERS)]
FLAGS = (
    "--profile", "h100-8b", "--enable-lora", "--max-loras", str(SLOTS), "--max-cpu-loras", str(ADAPTERS),
    "--max-model-len", "8192",
)  # fmt: skip


@asynccontextmanager
async def running_worker(number: int) -> AsyncIterator[BackendSpec]:
    """One that holds all adapters in host memory."""
    worker = Worker(parse(FLAGS, {}, 0.0), cast(Any, None), cast(Any, None))
    for index, name in enumerate(NAMES):
        worker.adapters.loaded[name] = SimAdapter(name, name, rank=rank_of(index))
        worker.adapters._schedule.hold(name, rank_of(index))
    runner = web.AppRunner(build(worker), access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    listener = listening()
    await web.SockSite(runner, listener).start()
    try:
        yield BackendSpec(
            id=f"instance_{number}", incarnation=1, state="ready", scheme="http", host="127.0.0.1", ip="127.0.0.1",
            port=listener.getsockname()[1], models=(card("demo"), *(card(name, "demo") for name in NAMES)),
            seats=256, slots=SLOTS, places=ADAPTERS,
        )  # fmt: skip
    finally:
        await runner.cleanup()


async def over_http(folder: Path, strategy: str, load: Any) -> Seen:
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(running_worker(number)) for number in range(WORKERS)]
        balancer = await stack.enter_async_context(running_balancer(folder, queue_timeout=1000.0))
        cards = tuple(card(name, "demo") for name in NAMES)
        ranks = {name: rank_of(index) for index, name in enumerate(NAMES)}
        given = {"strategy": strategy, "registered": cards, "ranks": ranks}
        assert balancer.parts.pool.apply(backend_set(*workers, **given))
        return await drive(balancer.port, load, 1.0)


def test_times_over_http_are_those_of_the_simulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the load where the p99 of least connections reaches 2 s."""
    load, p99 = requests(300, 24.0, 1), {}
    monkeypatch.setattr(app, "Random", lambda: Random(0))  # ties are drawn, here as there
    for strategy in ("least_connections", "adaptive"):
        folder = tmp_path / strategy
        folder.mkdir()

        async def main(folder: Path = folder, strategy: str = strategy) -> Seen:
            monkeypatch.setattr(time, "monotonic", asyncio.get_running_loop().time)
            return await over_http(folder, strategy, load)

        seen, expected = movedloop.run(main()), simulated(load, strategy)
        assert seen.failed == 0
        for share in (0.5, 0.9, 0.99):
            assert seen.percentile(share) == pytest.approx(expected.percentile(share), rel=0.15)
        p99[strategy] = seen.percentile(0.99)
    assert p99["least_connections"] > 2
    assert p99["adaptive"] <= p99["least_connections"] / 2
