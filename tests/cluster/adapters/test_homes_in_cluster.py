"""Each adapter where it belongs, over a whole cluster in one process: more adapters than places, under `adaptive`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from adapterfakes import make_adapter
from cluster.fleet.intent import Intent
from cluster.fleet.states import DesiredState
from config.topology import BackendSet
from inprocess import InProcess, running, until
from worker.demo import model_path

COUNT, PLACES = 12, 4
NAMES = [f"a{number}" for number in range(COUNT)]

Start = Callable[..., AbstractAsyncContextManager[InProcess]]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    @asynccontextmanager
    async def begin(**settings: object) -> AsyncIterator[InProcess]:
        listed = [{"name": name, "path": make_adapter(tmp_path / name, at)} for at, name in enumerate(NAMES)]
        file = tmp_path / "adapters.yaml"
        file.write_text(json.dumps({"lora_adapters": listed, "auto_load": [], "lora_settings": {"cache_size": PLACES}}))
        flags = ("--max-loras", "2", "--served-model-name", "demo")
        given = {"instances": 3, "strategy": "adaptive", "engine_args": flags, "lora_config": str(file), **settings}
        async with running(tmp_path / "state", monkeypatch, model=str(model_path()), **given) as cluster:
            await cluster.settled(3)
            yield cluster

    return begin


def told(cluster: InProcess) -> BackendSet:
    """What balancers are told now."""
    return cluster.parts.backends.as_of((1, 1))


def held(cluster: InProcess) -> dict[str, set[str]]:
    """By worker that lives."""
    ready = [i.id for i in cluster.parts.fleet.instances.values() if i.state == "ready"]
    return {name: set(cluster.engine(name).adapters) for name in ready}


async def at_home(cluster: InProcess, workers: int = 3) -> dict[str, tuple[str, ...]]:
    """Where they belong, once each is there and nowhere else where there is no room."""

    async def look() -> bool:
        there = held(cluster)
        homes = told(cluster).homes
        return (
            len(there) == workers and homes.keys() == set(NAMES) and homes == cluster.parts.inventory.homes
            and all(len(names) <= max(PLACES, COUNT // workers) for names in there.values())
            and all(name in there[worker] for name, ids in homes.items() for worker in ids)
        )  # fmt: skip

    await until(look)
    return told(cluster).homes


async def ask_all(cluster: InProcess) -> list[int]:
    return list(await asyncio.gather(*(cluster.complete(name) for name in NAMES)))


@asynccontextmanager
async def asking(cluster: InProcess) -> AsyncIterator[None]:
    """All of them, again and again, and each is answered."""
    answers, over = [], False

    async def ask(name: str) -> None:
        while not over:
            answers.append((name, await cluster.complete(name)))
            await asyncio.sleep(0.02)

    async with asyncio.TaskGroup() as tasks:
        for name in NAMES:
            tasks.create_task(ask(name), name=name)
        yield
        over = True
    assert {name for name, _ in answers} == set(NAMES)
    assert [each for each in answers if each[1] != 200] == []


async def test_each_is_on_its_homes_only_and_all_answer(start: Start) -> None:
    async with start() as cluster:
        assert await ask_all(cluster) == [200] * COUNT
        homes = await at_home(cluster)
        assert all(len(ids) == 1 for ids in homes.values()), "as many as there are places"
        assert sorted(len(names) for names in held(cluster).values()) == [PLACES] * 3
        loads = sum(agent.totals.loads for _, agent in cluster.parts.agents.ready())
        for _ in range(5):
            assert await ask_all(cluster) == [200] * COUNT
        assert sum(agent.totals.loads for _, agent in cluster.parts.agents.ready()) == loads, "nothing is moved about"
        asked = {name: {model for model, _ in cluster.engine(name).asked} & set(NAMES) for name in held(cluster)}
        assert sum(map(len, asked.values())) >= COUNT
        shown = await cluster.adapters()
        assert {adapter["state"] for adapter in shown.values()} == {"loaded"}
        made = told(cluster)
        assert set(made.ranks) == set(NAMES) and {backend.places for backend in made.backends} == {PLACES}


async def test_homes_take_far_fewer_loads_than_the_same_on_all_workers(start: Start) -> None:
    async with start(strategy="least_connections") as cluster:

        def loads() -> int:
            return sum(agent.totals.loads for _, agent in cluster.parts.agents.ready())

        async def taken() -> int:
            """By the same requests, one after the other."""
            before = loads()
            for name in NAMES:
                assert await cluster.complete(name) == 200
            return loads() - before

        same = await taken()
        assert (await cluster.post("/v1/cluster/strategy", {"strategy": "adaptive"}))[0] == 200
        await ask_all(cluster)
        await at_home(cluster)
        few = await taken()
        assert few <= same / 2


async def test_what_a_dead_worker_held_has_another_home_at_once(start: Start) -> None:
    async with start() as cluster:
        await ask_all(cluster)
        before = await at_home(cluster)
        async with asking(cluster):
            for number in (1, 2):
                name = f"instance_{number}"
                cluster.clock.advance(4)
                cluster.engine(name).die()
                await cluster.back(name, 2)
            after = await at_home(cluster)
        kept = [name for name in NAMES if before[name] == after[name] == ("instance_0",)]
        assert kept, "who stayed kept what it had"


async def test_strategies_are_switched_from_homes_to_the_same_on_all_and_back(start: Start) -> None:
    async with start() as cluster:
        await ask_all(cluster)
        await at_home(cluster)
        async with asking(cluster):
            assert (await cluster.post("/v1/cluster/strategy", {"strategy": "least_connections"}))[0] == 200
            assert told(cluster).homes == told(cluster).ranks == {}
            await asyncio.sleep(0.2)
            assert (await cluster.post("/v1/cluster/strategy", {"strategy": "adaptive"}))[0] == 200
            await at_home(cluster)


async def test_an_adapter_that_its_home_refuses_is_served_by_another(start: Start) -> None:
    async with start() as cluster:
        cluster.engine("instance_1").broken["/v1/load_lora_adapter"] = 500
        assert await ask_all(cluster) == [200] * COUNT


async def test_a_new_version_is_on_all_workers_or_on_none_and_then_on_its_home(start: Start, tmp_path: Path) -> None:
    async with start() as cluster:
        await ask_all(cluster)
        await at_home(cluster)
        new = make_adapter(tmp_path / "new", 77)
        assert (await cluster.load("a3", new, load_inplace=True))[1]["version"] == 2
        await at_home(cluster)
        paths = {engine.adapters["a3"] for engine in map(cluster.engine, held(cluster)) if "a3" in engine.adapters}
        assert paths == {cluster.parts.inventory.registry.adapters["a3"].current.path}
        assert await cluster.complete("a3") == 200


async def test_without_a_word_about_it_the_strategy_follows_from_how_many_adapters_there_are(start: Start) -> None:
    """Two slots each: from the third adapter on, and no more when it is gone; a word holds whatever there is."""
    async with start(strategy="auto") as cluster:
        assert told(cluster).strategy == "adaptive" and set(told(cluster).ranks) == set(NAMES)
        await ask_all(cluster)
        await at_home(cluster)
        for name in NAMES[2:]:
            assert (await cluster.post("/v1/unload_lora_adapter", {"lora_name": name}))[0] == 200
            assert told(cluster).strategy == ("adaptive" if name != NAMES[-1] else "least_connections")
        assert told(cluster).homes == told(cluster).ranks == {}
        assert (await cluster.status())["load_balancer_strategy"] == "least_connections"
        assert [await cluster.complete(name) for name in NAMES[:2]] == [200, 200]
        assert cluster.parts.fleet.intent.durable()["strategy"] == ""  # which an earlier release understands
        assert (await cluster.post("/v1/cluster/strategy", {"strategy": "random"}))[0] == 200
        assert told(cluster).strategy == cluster.parts.fleet.intent.durable()["strategy"] == "random"
        applied = {"settings": {"strategy": "auto"}}
        assert (await cluster.post("/v1/cluster/apply", applied))[0] == 202
        assert told(cluster).strategy == "least_connections"


def test_a_cluster_that_runs_keeps_the_strategy_that_it_has() -> None:
    """What an earlier release stored, whose default that was, is restored; so is what was chosen by nobody."""
    for kept, strategy in (("least_connections", "least_connections"), ("", "auto"), (None, "auto")):
        intent = Intent(DesiredState(), {}, "auto")
        intent.restore({}, kept)
        assert intent.strategy == strategy
