"""A whole cluster of three models with room for one, in one event loop, with time that is skipped; what balancers
report is said by the tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.deployment import model_plans
from cluster.fleet.placement import Machine
from cluster.models import startup, swapping
from cluster.models.record import ModelUse
from clusterfakes import sim_plan
from config.errors import UsageError
from config.paths import StateDir
from config.settings import load
from fakes import soon
from inprocess import InProcess, running, until
from worker.demo import adapter_path

Start = Callable[..., Any]

MODELS: dict[str, Any] = {"a": "demo", "b": "demo", "c": "demo"}


class Swapped:
    """Looks are those of the test."""

    def __init__(self, cluster: InProcess) -> None:
        self.cluster, self.parts = cluster, cluster.parts
        self.said: dict[str, ModelUse] = {}
        cluster.parts.swapping._uses = lambda: self.said

    def say(
        self, name: str, in_flight: int = 0, waiting: int = 0, oldest: float = 0.0, ago: float = 0.0
    ) -> None:
        """A balancer reports that of a model, and that its latest request came so many seconds ago."""
        self.said[name] = ModelUse(in_flight, waiting, oldest, self.parts.clock.wall() - ago)

    async def look(self, seconds: float = 0.0) -> None:
        """One more, so many seconds later."""
        self.cluster.clock.advance(seconds)
        await self.parts.swapping.look()

    async def unasked(self, name: str, seconds: float) -> None:
        """It is seen to be up, and then to be asked for by nobody for so long."""
        await self.look()
        self.say(name, ago=seconds)
        await self.look(seconds)

    def states(self) -> dict[str, str]:
        return {model.name: model.state for model in self.parts.offers.every()}

    async def reaches(self, **states: str) -> None:
        """Looks until the models are in these states."""

        async def seen() -> bool:
            await self.look()
            return all(self.states()[name] == state for name, state in states.items())

        await until(seen)

    def events(self, kind: str) -> list[str]:
        return [event.subject for event in self.parts.events.events if event.kind == kind]


@pytest.fixture
async def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    monkeypatch.setattr(swapping, "EVERY", 1e6)

    @asynccontextmanager
    async def made(models: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Swapped]:
        given = {"models": models or MODELS, "max_concurrent_models": 1, **settings}
        async with running(tmp_path / "state", monkeypatch, **given) as cluster:
            yield Swapped(cluster)

    return made


async def test_a_model_is_started_when_it_is_asked_for_and_makes_room_when_it_is_not(start: Start) -> None:
    async with start() as cluster:
        await cluster.look()
        assert cluster.states() == {"a": "down", "b": "down", "c": "down"}
        cluster.say("b", waiting=1)
        await cluster.reaches(b="up")
        cluster.say("b")
        cluster.say("a", waiting=1, oldest=1)
        await cluster.look(1.0)
        assert cluster.states()["b"] == "up", "it has just come up"
        await cluster.look(10.0)
        await cluster.reaches(a="up", b="down")
        assert cluster.events("model.starting") == ["b", "a"] and cluster.events("model.stopping") == ["b"]
        assert len(cluster.parts.fleet.instances) == 1


async def test_a_word_of_a_balancer_is_enough_for_a_while(start: Start) -> None:
    async with start() as cluster:
        cluster.parts.swapping.ask("c")
        await cluster.reaches(c="up")
        cluster.cluster.clock.advance(100)
        cluster.parts.swapping.ask("nobody")
        cluster.parts.swapping.ask("a")
        cluster.cluster.clock.advance(swapping.ASKED_S + 1)
        await cluster.look()
        assert cluster.states() == {"a": "down", "b": "down", "c": "up"}, "whoever asked has gone"


async def test_one_with_requests_is_given_no_more_and_ends_with_the_last_of_them(start: Start) -> None:
    async with start() as cluster:
        cluster.say("a", waiting=1)
        await cluster.reaches(a="up")
        cluster.cluster.engine("a/instance_0").hold.clear()
        request = asyncio.create_task(cluster.cluster.complete("a"))
        pool = cluster.cluster.balancer.parts.pool
        await soon(lambda: sum(pool.in_flight().values()) == 1)
        cluster.say("a", in_flight=1)
        cluster.say("b", waiting=1, oldest=5)
        await cluster.look(15)
        assert cluster.states()["a"] == "up"
        cluster.say("b", waiting=1, oldest=20)
        await cluster.look(5)
        assert cluster.states()["a"] == "stopping"
        await cluster.look(10_000)
        await asyncio.sleep(0.1)
        assert cluster.states() == {"a": "stopping", "b": "down", "c": "down"}, "longer than any drain takes"
        cluster.cluster.engine("a/instance_0").hold.set()
        assert await request == 200
        cluster.say("a")
        await cluster.reaches(a="down", b="up")


async def test_a_pinned_one_is_there_from_the_start_and_stays(start: Start) -> None:
    models = {**MODELS, "a": {"path": "demo", "pinned": True}}
    async with start(models, max_concurrent_models=2) as cluster:
        await cluster.reaches(a="up")
        cluster.say("b", waiting=1)
        await cluster.reaches(b="up")
        cluster.say("b")
        cluster.say("c", waiting=1, oldest=100)
        await cluster.look(50)
        await cluster.reaches(a="up", b="down", c="up")


async def test_after_its_time_unasked_it_goes(start: Start) -> None:
    async with start({"a": {"path": "demo", "idle_timeout": 60}}) as cluster:
        cluster.say("a", waiting=1)
        await cluster.reaches(a="up")
        cluster.say("a", in_flight=1)
        await cluster.look(100)
        assert cluster.states() == {"a": "up"}
        cluster.say("a", ago=59)
        await cluster.look()
        assert cluster.states() == {"a": "up"}
        cluster.say("a", ago=60)
        await cluster.reaches(a="down")


SLEEPS = {"path": "demo", "args": "--enable-sleep-mode", "adapters": {"mine": str(adapter_path("pirate"))}}


async def test_one_that_can_sleep_makes_room_so_and_is_woken_by_who_asks(start: Start) -> None:
    async with start({"a": {**SLEEPS, "idle_timeout": 60}, "b": "demo"}, min_up=0.0) as cluster:
        cluster.say("a", waiting=1)
        await cluster.reaches(a="up")
        engine = cluster.cluster.engine("a/instance_0")
        cluster.say("a")
        cluster.say("b", waiting=1)
        await cluster.reaches(a="asleep", b="up")
        assert engine.asleep and engine.alive
        cluster.say("b")
        assert await asyncio.gather(cluster.cluster.complete("mine"), cluster.reaches(a="up", b="down")) == [200, None]
        assert cluster.cluster.started("a/instance_0") == 1 and engine.asked[-1][0] == "mine"
        assert engine.adapters.keys() == {"mine"}, "loaded once more"
        await cluster.unasked("a", 60)
        await cluster.reaches(a="asleep")
        assert cluster.events("worker.asleep") == ["a/instance_0"] * 2 and cluster.events("worker.waking")
        assert (await cluster.cluster.status())["total_instances"] == 0, "nobody is missing"


async def test_one_that_does_not_fall_asleep_or_dies_asleep_is_started_when_it_is_asked_for(start: Start) -> None:
    async with start({"a": {**SLEEPS, "idle_timeout": 60}}) as cluster:
        cluster.say("a", waiting=1)
        await cluster.reaches(a="up")
        cluster.cluster.engine("a/instance_0").broken["/sleep"] = 500
        await cluster.unasked("a", 60)
        await cluster.reaches(a="down")
        assert cluster.events("worker.altered") == ["a/instance_0"]
        cluster.say("a", waiting=1)
        await cluster.reaches(a="up")
        await cluster.unasked("a", 60)
        await cluster.reaches(a="asleep")
        cluster.cluster.engine("a/instance_0").die()
        await cluster.reaches(a="down")
        await cluster.look(1000)
        assert cluster.states() == {"a": "down"}
        cluster.say("a", waiting=1)
        await cluster.reaches(a="up")
        assert cluster.cluster.started("a/instance_0") == 3


async def test_one_that_answers_otherwise_after_its_sleep_is_restarted(start: Start) -> None:
    async with start({"a": {**SLEEPS, "idle_timeout": 60}}) as cluster:
        cluster.say("a", waiting=1)
        await cluster.reaches(a="up")
        await cluster.unasked("a", 60)
        await cluster.reaches(a="asleep")
        cluster.cluster.engine("a/instance_0").names[0] += "?"
        cluster.say("a", waiting=1)
        await cluster.reaches(a="up")
        (event,) = [event for event in cluster.parts.events.events if event.kind == "worker.altered"]
        assert event.sentence == "a/instance_0 answers otherwise than before it slept: the base model"
        assert cluster.cluster.started("a/instance_0") == 2
        assert cluster.parts.fleet.instances["a/instance_0"].restarted == {"unhealthy": 1}


async def test_a_start_that_fails_is_told_and_tried_again_later(start: Start) -> None:
    async with start() as cluster:
        cluster.cluster.engines.doomed = lambda spec: 3 if spec.id.startswith("a/") else None
        cluster.say("a", waiting=1, oldest=1)
        await cluster.reaches(a="failed")
        (offer,) = [model for model in cluster.parts.offers.every() if model.name == "a"]
        assert "a/instance_0 exited with code 3" in offer.why
        assert offer.retry_at == pytest.approx(cluster.parts.clock.wall() + 5, abs=2)
        assert cluster.parts.fleet.instances == {} and cluster.parts.fleet.intent.group("a").count == 0
        await cluster.look(3)
        assert cluster.states()["a"] == "failed", "not at once"
        cluster.say("b", waiting=1)
        await cluster.reaches(b="up")
        cluster.say("b")
        cluster.cluster.engines.doomed = lambda spec: None
        await cluster.look(10)
        await cluster.reaches(a="up", b="down")
        (offer,) = [model for model in cluster.parts.offers.every() if model.name == "a"]
        assert (offer.why, offer.retry_at) == ("", 0.0)


async def test_one_that_is_to_be_there_from_the_start_is_tried_again_unasked(start: Start) -> None:
    async with start({"a": {"path": "demo", "on_demand": False}}) as cluster:
        cluster.cluster.engines.doomed = lambda spec: 3
        await cluster.reaches(a="failed")
        cluster.cluster.engines.doomed = lambda spec: None
        cluster.cluster.clock.advance(5)
        await cluster.reaches(a="up")


async def test_each_failure_in_a_row_doubles_the_pause_and_names_the_log(start: Start, tmp_path: Path) -> None:
    async with start() as cluster:
        cluster.cluster.engines.doomed = lambda spec: 3
        cluster.say("a", waiting=1)
        for pause in (5, 10, 20):
            await cluster.reaches(a="failed")
            record = cluster.parts.records.of("a")
            (why,) = [model.why for model in cluster.parts.offers.every() if model.name == "a"]
            assert why.endswith(f"; its log is {StateDir(tmp_path / 'state').log('a/instance_0')}")
            assert record.retry_at - cluster.parts.clock.now() == pytest.approx(pause, abs=1)
            cluster.cluster.clock.advance(pause)
            await soon(lambda: cluster.parts.fleet.instances == {})
            await cluster.look()
        assert len(cluster.events("model.failed")) == 3


async def test_one_for_which_there_is_never_room_is_refused_with_why(start: Start) -> None:
    models = {**MODELS, "a": {"path": "demo", "pinned": True}}
    async with start(models) as cluster:
        await cluster.reaches(a="up")
        cluster.say("b", waiting=1)
        await cluster.reaches(a="up", b="failed")
        (offer,) = [model for model in cluster.parts.offers.every() if model.name == "b"]
        assert offer.why == "there is no room for it beside a, which stay up"


async def test_a_model_that_was_up_and_lost_its_worker_is_brought_back_as_any_other(start: Start) -> None:
    async with start() as cluster:
        cluster.say("a", waiting=1)
        await cluster.reaches(a="up")
        cluster.cluster.engine("a/instance_0").die()
        await soon(lambda: cluster.states()["a"] == "starting")
        await cluster.look()
        assert cluster.events("model.failed") == []
        cluster.cluster.clock.advance(5)
        await cluster.reaches(a="up")


async def test_nothing_is_started_while_the_cluster_shuts_down(start: Start) -> None:
    async with start() as cluster:
        cluster.parts.fleet.intent.shut_down()
        cluster.say("a", waiting=1)
        await cluster.look()
        assert cluster.events("model.starting") == []


def test_what_cannot_be_up_together_from_the_start_is_refused() -> None:
    def check(most: int | None, memory: int, **models: Any) -> None:
        settings = load({"engine": "vllm", "models": models, "max_concurrent_models": most})
        machine = Machine((), (0,), memory)
        plans = [model_plans.make_group(settings, name, model, machine) for name, model in settings.models.items()]
        startup.check(settings, [sim_plan(models=models), *plans])

    always = {"path": "org/m", "on_demand": False}
    check(1, 5 * 2**30, a=always, b="org/m")
    with pytest.raises(UsageError, match="max_concurrent_models 1: a, b are to be up from the start"):
        check(1, 2**40, a=always, b=always)
    with pytest.raises(UsageError, match="a, b do not fit on this machine at the same time"):
        check(None, 5 * 2**30, a=always, b=always)
