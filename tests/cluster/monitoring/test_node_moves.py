"""A worker that keeps a node from being given back is moved, and nobody is missed meanwhile."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.deployment import plan
from cluster.fleet.placement import Machine
from cluster.monitoring import node_moves
from config.settings import load
from inprocess import MODEL, Engines, InProcess, assembled, until
from worker.drivers.local import LocalDriver
from worker.drivers.nodes import HeldPlace, NodeStatus, WorkerNeed, WorkerPlace
from worker.spec import WorkerEndpoint


class Pods(Engines):
    """One worker a pod, as `worker.drivers.kubernetes` has them. ``up``: how many there are, ``down``: those that are
    not there yet."""

    def __init__(self, up: int, down: set[int]) -> None:
        super().__init__()
        self.up, self.down = up, down

    def place(self, name: str, need: WorkerNeed, taken: Mapping[str, WorkerPlace]) -> WorkerPlace:
        used = {place.endpoint.host for place in taken.values()}
        host = next((host for host in self._hosts() if host not in used), None)
        if host is None:
            raise OSError("no pod is free")
        return WorkerPlace(WorkerEndpoint(LocalDriver().reserve(()).port, host))

    def keep(self, places: Mapping[str, HeldPlace]) -> None:
        """There is one kind of pod."""

    def nodes(self) -> list[NodeStatus]:
        return []

    def crowded(self) -> str | None:
        used = {engine.endpoint.host for engine in self.engines if engine.alive}
        highest = max(used, default="")
        return highest if any(host < highest for host in self._hosts() if host not in used) else None

    def _hosts(self) -> list[str]:
        return [_pod(number) for number in range(self.up) if number not in self.down]


def _pod(number: int) -> str:
    return f"127.0.0.{number + 2}"


async def _running(folder: Path, patch: pytest.MonkeyPatch, pods: Pods, **settings: Any) -> Any:
    given = {"engine": "sim", "lb_standby": False, "health_interval": 0.05, **settings}
    return assembled(folder, patch, [plan.make(load(given), Machine((), (0, 1), 2**34))], pods)


def _hosts(status: Mapping[str, Any]) -> set[str]:
    return {one["host"] for one in status["instances"].values()}


@pytest.mark.parametrize("spares", [0, 1])
async def test_the_highest_pod_is_freed_and_as_many_serve_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spares: int
) -> None:
    """The first pod was gone when they were started, and is back."""
    monkeypatch.setattr(node_moves, "STEADY_S", 0.0)
    pods = Pods(3 + spares, down={0})
    async with await _running(tmp_path, monkeypatch, pods, instances=2, spares=spares) as cluster:
        status = await _at_rest(cluster, 2, spares)
        assert _pod(2 + spares) in _hosts(status)
        pods.down.clear()
        async with asyncio.timeout(60):
            assert await _looked_at(cluster, lambda status: _pod(2 + spares) not in _hosts(status)) > 1
        status = await _at_rest(cluster, 2, spares)
        assert _hosts(status) == {_pod(number) for number in range(2 + spares)}
        assert cluster.parts.fleet.intent.group().standby_count == spares
        before = len(pods.engines)
        cluster.parts.moves.look(cluster.clock())
        assert len(pods.engines) == before and await cluster.complete() == 200


async def test_one_that_does_not_get_ready_takes_no_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_moves, "STEADY_S", 0.0)
    pods = Pods(3, down={0})
    async with await _running(tmp_path, monkeypatch, pods, instances=2) as cluster:
        status = await _at_rest(cluster, 2, 0)
        pods.doomed = lambda spec: 1
        pods.down.clear()
        cluster.parts.moves.look(cluster.clock())
        await until(lambda: _more(pods, 2))
        cluster.clock.advance(cluster.parts.fleet.intent.desired.startup_timeout)
        monkeypatch.setattr(node_moves, "STEADY_S", 1e9)
        cluster.parts.inbox.post(lambda: cluster.parts.moves.look(cluster.clock()))
        assert _hosts(await _at_rest(cluster, 2, 0)) == _hosts(status)


async def _more(pods: Pods, count: int) -> bool:
    return len(pods.engines) > count


async def _at_rest(cluster: InProcess, serving: int, spares: int) -> dict[str, Any]:
    async def look() -> dict[str, Any] | None:
        status = await cluster.status()
        done = status["supervisor"].get("settled") and len(status["instances"]) == serving + spares
        return status if done and status["running_instances"] == serving else None

    return dict(await until(look))


async def _looked_at(cluster: InProcess, done: Any) -> int:
    """How often until it is ``done``; as many serve each time, and answer."""

    def look() -> None:
        cluster.parts.moves.look(cluster.clock())

    for count in itertools.count():
        cluster.parts.inbox.post(look)
        assert await cluster.complete(MODEL) == 200
        ready = [b for b in cluster.balancer.parts.pool.backends.values() if b.spec.state == "ready"]
        assert len(ready) >= 2
        if done(await cluster.status()):
            return count
    raise AssertionError
