"""A whole cluster that follows its load, in one event loop, with time that is skipped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.monitoring.hang_monitors import ProgressFinding
from cluster.storage.store import NotSaved
from cluster.supervisor import autoscaling
from fakes import soon
from inprocess import MODEL, InProcess, running, until
from worker.progress import Reading

Start = Callable[..., Any]

SEATS = 2


class Loaded:
    """A cluster whose workers take two requests at a time, of which one keeps them busy enough, and requests that stay
    until they are let go."""

    def __init__(self, cluster: InProcess) -> None:
        self.cluster, self.requests = cluster, list[asyncio.Task[int]]()

    def seated(self) -> None:
        for instance in self.cluster.parts.fleet.instances.values():
            instance.seats = SEATS

    async def look(self, seconds: float = 1.0) -> None:
        """One look, so many seconds later, at what balancers say now."""
        self.cluster.clock.advance(seconds)
        self.seated()
        (process,), pool = self.cluster.parts.balancers.processes, self.cluster.balancer.parts.pool
        before = process.in_flight
        self.cluster.balancer.parts.link.report()
        await soon(lambda: process.in_flight is not before and process.in_flight == pool.in_flight())
        await self.cluster.parts.autoscaling.look()

    async def ask(self, count: int, model: str = MODEL) -> None:
        for engine in self.cluster.engines.engines:
            engine.hold.clear()
        self.requests += [asyncio.create_task(self.cluster.complete(model)) for _ in range(count)]
        pool = self.cluster.balancer.parts.pool
        await soon(lambda: sum(pool.in_flight().values()) == len(self.requests))

    async def let_go(self) -> list[int]:
        for engine in self.cluster.engines.engines:
            engine.hold.set()
        answers = await asyncio.gather(*self.requests)
        self.requests.clear()
        return answers

    @property
    def wanted(self) -> int:
        return self.cluster.parts.fleet.intent.group().count

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [dict(e.data) for e in self.cluster.parts.events.events if e.kind == kind]

    async def settled(self, ready: int) -> None:
        await self.cluster.settled(ready)


@pytest.fixture
async def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    monkeypatch.setattr(autoscaling, "EVERY", 1e6)  # looks are those of the test

    @asynccontextmanager
    async def made(**settings: Any) -> AsyncIterator[Loaded]:
        given = {"autoscale_load": 0.5, "autoscale": "on", "max_instances": 6, **settings}
        async with running(tmp_path / "state", monkeypatch, **given) as cluster:
            loaded = Loaded(cluster)
            await loaded.settled(int(settings.get("instances", 1)))
            yield loaded

    return made


async def test_from_one_to_four_and_back_and_nobody_is_failed(start: Start) -> None:
    async with start() as loaded:
        await loaded.ask(4)
        await loaded.look()
        assert loaded.wanted == 2  # twice at most in a step
        await loaded.look()
        assert loaded.wanted == 4
        await loaded.settled(4)
        status = await loaded.cluster.status()
        assert status["autoscale"]["mode"] == "on"
        assert (status["autoscale"]["target"], status["autoscale"]["needed"]) == (4, 4.0)
        assert await loaded.let_go() == [200] * 4
        left = []
        for _ in range(100):
            await loaded.look(10)
            await loaded.settled(loaded.wanted)
            left.append(loaded.wanted)
        assert sorted(left, reverse=True) == left  # no flap
        assert left[:29] == [4] * 29
        assert left[-1] == 1
        changes = [(e["from"], e["to"]) for e in loaded.events("autoscale")]
        assert changes == [(1, 2), (2, 4), (4, 3), (3, 2), (2, 1)]
        assert loaded.events("autoscale")[0]["in_flight"] == 4


async def test_each_model_is_scaled_by_what_it_is_asked_for_within_its_bounds(start: Start) -> None:
    """Whatever holds for the cluster; one that says nothing is left alone."""
    up = {"path": "demo", "on_demand": False}
    models = {"a": {**up, "max": 3}, "b": {**up, "instances": 2, "min": 1, "max": 2}, "c": up, "d": "demo"}
    async with start(models=models, autoscale="off", instances=4, max_instances=None) as loaded:
        intent = loaded.cluster.parts.fleet.intent

        def wanted() -> dict[str, int]:
            return {name: group.count for name, group in intent.desired.groups.items() if name != "default"}

        await loaded.ask(4, "a")
        await loaded.look()
        assert wanted() == {"a": 2, "b": 2, "c": 1, "d": 0}
        await loaded.look()
        assert wanted() == {"a": 3, "b": 2, "c": 1, "d": 0}, "its max"
        await loaded.settled(6)
        scaled = [event for event in loaded.cluster.parts.events.events if event.kind == "autoscale"]
        assert scaled[0].sentence.startswith("a is scaled by autoscaling from 1 to 2 workers: 4.00 needed")
        await loaded.look(400)
        assert wanted() == {"a": 3, "b": 1, "c": 1, "d": 0}, "its min"
        assert await loaded.let_go() == [200] * 4
        await loaded.ask(3, "c")
        for _ in range(3):
            await loaded.look(20)
        assert wanted()["c"] == 1
        assert await loaded.let_go() == [200] * 3


async def test_advice_is_given_once_and_nothing_is_done(start: Start) -> None:
    async with start(autoscale="advise") as loaded:
        await loaded.ask(3)
        for _ in range(6):
            await loaded.look(4)
        assert loaded.wanted == 1
        assert [(e["from"], e["to"]) for e in loaded.events("autoscale.advice")] == [(1, 2), (2, 3)]

        async def told() -> bool:
            return (await loaded.cluster.status()).get("autoscale", {}).get("target") == 3

        assert await until(told)
        await loaded.let_go()


async def test_what_a_worker_is_busy_enough_with_is_learnt_of_what_workers_tell(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty requests at a time cost 100 ms a token, five 25 ms: a worker takes fewer than the settings say."""
    monkeypatch.setattr(f"{__name__}.SEATS", 80)
    async with start(autoscale="advise") as loaded:
        told = {"running": 0, "tokens": 0}

        def reading(finding: ProgressFinding) -> Reading:
            return Reading(frozenset(), told["running"], 0, told["tokens"])

        monkeypatch.setattr(ProgressFinding, "reading", property(reading))
        await loaded.ask(16)
        await loaded.look()
        before = loaded.cluster.parts.autoscaling.describe()
        assert before is not None
        assert (before["requests_per_worker"], before["learnt"], before["target"]) == (40.0, False, 1)
        for second in range(300):
            told["running"] = 20 if second % 20 < 10 else 5
            told["tokens"] += 200  # 20 x 1 s / 100 ms, 5 x 1 s / 25 ms
            await loaded.look()
        after = loaded.cluster.parts.autoscaling.describe()
        assert after is not None
        assert (after["requests_per_worker"], after["learnt"]) == (10.0, True)  # a quarter of 40, the least
        assert loaded.events("autoscale.advice")[-1]["each"] == 10.0
        assert after["target"] == 2
        await loaded.let_go()


async def test_it_is_off_unless_somebody_asks_for_it(start: Start) -> None:
    async with start(autoscale="off") as loaded:
        await loaded.ask(3)
        await loaded.look()
        assert loaded.wanted == 1
        assert "autoscale" not in await loaded.cluster.status()
        await loaded.let_go()
        assert (await loaded.cluster.post("/v1/cluster/apply", {"settings": {"autoscale": "on"}}))[0] == 202
        await loaded.ask(2)
        await loaded.look()
        assert loaded.wanted == 2
        await loaded.let_go()


async def test_a_persons_scale_holds_for_a_while(start: Start) -> None:
    async with start() as loaded:
        await loaded.look(1)
        await loaded.look(299)
        assert (await loaded.cluster.post("/v1/cluster/scale", {"instances": 3}))[0] == 202
        await loaded.settled(3)
        await loaded.look(2)
        await loaded.look(299)
        assert loaded.wanted == 3
        await loaded.look(2)
        assert loaded.wanted == 2
        assert any("autoscaling goes on from there" in e.text for e in loaded.cluster.parts.events.events)


async def test_the_times_of_the_week_hold(start: Start) -> None:
    async with start(min_instances="1,3@00:00-24:00") as loaded:
        await loaded.look()
        assert loaded.wanted == 3
        assert loaded.events("autoscale")[0]["reason"] == "at least 3 are wanted now"


async def test_what_cannot_be_stored_is_not_done_and_tried_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with start() as loaded:
        await loaded.ask(2)
        store = loaded.cluster.parts.write_behind

        async def full(**values: Any) -> None:
            raise NotSaved("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(store, "put", full)
            await loaded.look()
        assert loaded.wanted == 1
        assert not loaded.events("autoscale")
        await loaded.look()
        assert loaded.wanted == 2
        await loaded.let_go()


async def test_one_out_of_the_middle_goes_and_nobody_takes_its_place(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoscaling, "least_missed", lambda there: "instance_1")
    async with start(instances=3) as loaded:
        await loaded.look(1)
        await loaded.look(301)
        assert list(loaded.cluster.parts.fleet.intent.group().instances) == ["instance_0", "instance_2"]
        await loaded.settled(2)
        await loaded.cluster.post("/v1/cluster/scale", {"instances": 3})
        await loaded.settled(3)  # the lowest free number comes first, and nobody else is moved
        assert loaded.cluster.started("instance_2") == loaded.cluster.started("instance_0") == 1


async def test_workers_that_have_failed_are_no_help(start: Start) -> None:
    async with start(instances=2) as loaded:
        loaded.cluster.engines.doomed = lambda spec: 1 if spec.id == "instance_1" else None
        loaded.cluster.engine("instance_1").die(1)

        async def failed() -> bool:
            loaded.cluster.clock.advance(60)
            return (await loaded.cluster.instance("instance_1"))["state"] == "failed"

        await until(failed)
        await loaded.ask(2)
        await loaded.look()
        assert sorted(loaded.cluster.parts.fleet.intent.group().instances) == [
            "instance_0", "instance_1", "instance_2",
        ]  # fmt: skip
        await loaded.let_go()
