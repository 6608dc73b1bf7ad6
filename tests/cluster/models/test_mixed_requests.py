"""Three models with room for one of them, and requests for all: a whole cluster in one event loop."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

import pytest

from cluster.models import swapping
from inprocess import InProcess, running
from worker.demo import adapter_path

MODELS = {"a": {"path": "demo"}, "b": {"path": "demo", "served_names": ["b-too"]}, "c": {"path": "demo"}}
REQUESTS, AT_A_TIME, SWAP_AFTER = 200, 8, 0.04


async def answered(cluster: InProcess, names: list[str]) -> list[tuple[str, int]]:
    """Each name that was asked for and the status of its answer, in the order of answers."""
    found, left = list[tuple[str, int]](), iter(names)

    async def client() -> None:
        for name in left:
            found.append((name, await cluster.complete(name)))

    await asyncio.gather(*(client() for _ in range(AT_A_TIME)))
    return found


async def test_every_one_of_200_is_answered_and_swaps_are_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swapping, "EVERY", 0.01)
    monkeypatch.setattr("lb.admission.wait_rules._WANT_MODEL_AGAIN", 0.04)
    monkeypatch.setattr("lb.control.link._REPORT_EVERY", 0.02)
    models = {**MODELS, "c": {"path": "demo", "adapters": {"mine": str(adapter_path("pirate"))}}}
    settings = {"models": models, "max_concurrent_models": 1, "min_up": 0.0, "swap_after": SWAP_AFTER}
    async with running(tmp_path / "state", monkeypatch, **settings) as cluster:
        up = most = 0

        async def watch() -> None:
            nonlocal up, most
            while True:
                up = sum(engine.alive for engine in cluster.engines.engines)
                most = max(most, up)
                await asyncio.sleep(0.002)

        watching = asyncio.create_task(watch())
        names = Random(1).choices(["a", "b", "b-too", "c", "mine"], k=REQUESTS)
        loop = asyncio.get_running_loop()
        began = loop.time()
        found = await answered(cluster, names)
        took = loop.time() - began
        watching.cancel()
        assert sorted(name for name, _ in found) == sorted(names)
        assert {status for _, status in found} == {200}
        assert most == 1, "there is room for one"
        swaps = sum(cluster.started(f"{name}/instance_0") for name in MODELS)
        assert 3 <= swaps <= 3 + took / SWAP_AFTER, "requests are grouped by model"
