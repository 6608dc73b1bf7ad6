"""Standbys in a whole cluster: they are ready and hold what the others hold, are sent nothing, and take a place at
once."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from adapterfakes import make_adapter
from fakes import soon
from inprocess import InProcess, running

Start = Callable[..., AbstractAsyncContextManager[InProcess]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    return lambda **settings: running(tmp_path, monkeypatch, **settings)


async def test_a_spare_is_ready_and_sent_nothing_and_serves_when_another_ends(start: Start) -> None:
    async with start(instances=1, spares=1) as cluster:
        status = await cluster.settled(1)
        spare = status["instances"]["instance_1"]
        assert (spare["state"], spare["spare"], spare["is_running"]) == ("spare", True, False)
        assert status["total_instances"] == 1
        before = len(cluster.engine("instance_1").asked)  # what it was asked to see that it is ready
        for _ in range(5):
            assert await cluster.complete() == 200
        assert len(cluster.engine("instance_1").asked) == before

        cluster.engines.doomed = lambda spec: 1  # nobody comes back
        cluster.engine("instance_0").die()
        status = await cluster.serving("instance_1")
        assert status["running_instances"] == 1 and status["instances"]["instance_0"]["spare"]
        assert await cluster.complete() == 200
        assert len(cluster.engine("instance_1").asked) > before
        told = [event for event in cluster.parts.events.events if event.kind == "worker.promoted"]
        assert [(event.subject, event.data) for event in told] == [("instance_1", {"place": "instance_0"})]


async def test_its_own_is_made_anew(start: Start) -> None:
    async with start(instances=2, spares=1) as cluster:
        await cluster.settled(2)
        cluster.engine("instance_1").die()
        await soon(lambda: cluster.started("instance_1") == 2)
        status = await cluster.settled(2)
        assert {name: one["state"] for name, one in status["instances"].items()} == {
            "instance_0": "ready", "instance_1": "spare", "instance_2": "ready",
        }  # fmt: skip


async def test_it_holds_the_adapters(start: Start, tmp_path: Path) -> None:
    async with start(instances=1, spares=1) as cluster:
        await cluster.settled(1)
        assert (await cluster.load("mine", make_adapter(tmp_path / "mine")))[0] == 200
        held = await cluster.held()
        assert set(held["instance_0"]) == set(held["instance_1"]) and "mine" in held["instance_1"]
        cluster.engine("instance_0").die()
        await cluster.serving("instance_1")
        assert await cluster.complete("mine") == 200


async def test_how_many_there_are_is_changed_while_the_cluster_runs(start: Start) -> None:
    async with start(instances=2) as cluster:
        await cluster.settled(2)
        for number in (1, 0):
            status, answer = await cluster.post("/v1/cluster/apply", {"settings": {"spares": number}})
            assert status == 202 and answer["restarting"] == [], answer
            status = await cluster.settled(2)
            assert [one["state"] for one in status["instances"].values()].count("spare") == number


async def test_scaling_up_does_not_wait_for_a_start(start: Start) -> None:
    async with start(instances=1, spares=1) as cluster:
        await cluster.settled(1)
        cluster.engines.doomed = lambda spec: 1  # whoever is started now never gets ready
        assert (await cluster.post("/v1/cluster/scale", {"instances": 2}))[0] == 202
        status = await cluster.serving("instance_0", "instance_1")
        assert status["total_instances"] == 2


async def test_a_rolling_restart_is_never_short_of_a_worker(start: Start) -> None:
    async with start(instances=2, spares=1) as cluster:
        await cluster.settled(2)
        assert (await cluster.post("/v1/cluster/restart", {"rolling": True}))[1]["spare"] is None
        fewest = 2

        def look() -> bool:
            nonlocal fewest
            fewest = min(fewest, cluster.parts.fleet.ready_count())
            return all(cluster.started(f"instance_{number}") == 2 for number in range(3))

        await soon(look)
        await cluster.settled(2)
        assert fewest == 2
