"""Load, and something killed all the time: nothing may be lost but what ran on the victim, and nothing may leak."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from harness import Cluster, free_port, kill, poll

pytestmark = pytest.mark.processes

VICTIMS = ("worker", "worker", "worker", "engine child", "supervisor")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, free_port())
    _up(cluster)
    yield cluster
    cluster.close()


def _up(cluster: Cluster) -> None:
    result = cluster.up("--engine", "sim", "--instances", "3", "--", "--ttft-ms", "2", "--itl-ms", "2")
    assert result.returncode == 0, result.stderr
    cluster.wait_ready(3)


async def _load(cluster: Cluster, stop: asyncio.Event, outcomes: Counter[str]) -> None:
    """Plain requests one after the other until told to stop."""
    body = {"model": "demo", "prompt": "hello", "max_tokens": 8, "ignore_eos": True}
    async with httpx.AsyncClient(timeout=40) as client:
        while not stop.is_set():
            try:
                answer = await client.post(f"{cluster.url}/v1/completions", json=body)
                outcomes[str(answer.status_code)] += 1
            except httpx.HTTPError as error:
                outcomes[type(error).__name__] += 1


def _strike(cluster: Cluster, victim: str, seed: random.Random) -> None:
    """Kills one thing, and waits until the cluster is whole again."""
    status = cluster.wait_ready(3)
    # One that has served for a while: five kills of the same within 3 s each are a crash loop, and rightly so.
    instance = poll(lambda: _served(cluster, seed), 20, "a worker that has served 3 s")
    pid = status["instances"][instance]["pid"]
    if victim == "supervisor":
        kill(status["supervisor"]["pid"])
        _up(cluster)
        return
    if victim == "engine child":
        kill(psutil.Process(pid).children()[0].pid)
    else:
        kill(pid)
    poll(lambda: cluster.instance(instance)["pid"] not in (None, pid), 20, f"{instance} is started again")
    cluster.wait_ready(3)


def _served(cluster: Cluster, seed: random.Random) -> str | None:
    found = [name for name, i in cluster.status()["instances"].items() if (i["ready_for_s"] or 0) > 3.2]
    return seed.choice(found) if found else None


async def _siege(cluster: Cluster, kills: int, seed: int) -> Counter[str]:
    stop, outcomes = asyncio.Event(), Counter[str]()
    load = [asyncio.ensure_future(_load(cluster, stop, outcomes)) for _ in range(8)]
    chooser = random.Random(seed)
    try:
        for _ in range(kills):
            await asyncio.to_thread(_strike, cluster, chooser.choice(VICTIMS), chooser)
    finally:
        stop.set()
        await asyncio.gather(*load)
    return outcomes


def _check(cluster: Cluster, outcomes: Counter[str], kills: int) -> None:
    # One worker at a time dies: a request that it had not answered is made again on another, so all succeed, but
    # for those that were in the middle of their answer's last bytes.
    lost = sum(outcomes.values()) - outcomes["200"]
    assert lost <= kills, outcomes
    assert outcomes["200"] > 100 * lost
    status = cluster.wait_ready(3)
    poll(lambda: cluster.status()["load_balancer"]["in_flight"] == 0, 5, "nothing is in flight")
    balancer = psutil.Process(status["load_balancer"]["pid"])
    with contextlib.suppress(psutil.AccessDenied):
        assert balancer.num_fds() < 100


async def test_a_dozen_kills_under_load_lose_nothing(cluster: Cluster) -> None:
    _check(cluster, await _siege(cluster, 12, seed=1), 12)


@pytest.mark.soak
@pytest.mark.timeout(3000)
async def test_three_hundred_kills_under_load_lose_nothing(cluster: Cluster) -> None:
    _check(cluster, await _siege(cluster, 300, seed=2), 300)
