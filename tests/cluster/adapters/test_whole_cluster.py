"""Adapters over a whole cluster: on all workers or on none, whatever a worker does. In one process: real supervisor and
balancer, workers that are none."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from adapterfakes import make_adapter
from inprocess import InProcess, running, until
from worker.demo import model_path

Start = Callable[..., AbstractAsyncContextManager[InProcess]]
LOAD = "/v1/load_lora_adapter"


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    return lambda **settings: running(tmp_path / "state", monkeypatch, **settings)


async def holds(cluster: InProcess, wanted: dict[str, dict[str, str]]) -> None:
    """Returns once that is what each worker holds."""

    async def look() -> bool:
        return await cluster.held() == wanted

    await until(look)


async def test_the_same_again_is_no_new_version_and_other_content_has_to_be_asked_for(
    start: Start, tmp_path: Path
) -> None:
    one, two, copy = (make_adapter(tmp_path / name, seed) for name, seed in (("one", 1), ("two", 2), ("copy", 1)))
    async with start(instances=3) as cluster:
        await cluster.settled(3)
        assert (await cluster.load("mine", one))[1]["version"] == 1
        status, again = await cluster.load("mine", copy)
        assert (status, again["version"]) == (200, 1)
        status, other = await cluster.load("mine", two)
        assert status == 409
        assert "load_inplace" in other["error"]["message"]
        assert (await cluster.load("mine", two, load_inplace=True))[1]["version"] == 2
        stored = cluster.parts.state.adapters
        before = len(list(stored.iterdir()))
        assert (await cluster.load("other", one))[0] == 200
        assert len(list(stored.iterdir())) == before, "the same content is stored once"


async def test_one_worker_that_refuses_means_none_has_it(start: Start, tmp_path: Path) -> None:
    async with start(instances=3) as cluster:
        await cluster.settled(3)
        cluster.engine("instance_1").broken[LOAD] = 500
        status, answer = await cluster.load("mine", make_adapter(tmp_path / "mine"))
        assert status == 502
        assert "instance_1" in answer["error"]["message"]
        assert "mine" not in await cluster.adapters()
        assert all("mine" not in names for names in (await cluster.held()).values())
        assert await cluster.complete("mine") == 404
        assert (await cluster.status())["running_instances"] == 3


async def test_an_update_that_one_worker_refuses_goes_back_everywhere(start: Start, tmp_path: Path) -> None:
    async with start(instances=3) as cluster:
        await cluster.settled(3)
        assert (await cluster.load("mine", make_adapter(tmp_path / "one", 1)))[0] == 200
        before = await cluster.held()
        refusing = cluster.engine("instance_2")
        refusing.broken_once[LOAD] = 500
        status, answer = await cluster.load("mine", make_adapter(tmp_path / "two", 2), load_inplace=True)
        assert status == 502
        assert "instance_2" in answer["error"]["message"]
        await holds(cluster, before)
        assert (await cluster.adapters())["mine"]["version"] == 1


async def test_versions_are_kept_and_gone_back_to(start: Start, tmp_path: Path) -> None:
    async with start(instances=1, keep_versions=2) as cluster:
        await cluster.settled(1)
        for n in range(3):
            assert (await cluster.load("mine", make_adapter(tmp_path / f"v{n}", n), load_inplace=True))[0] == 200
        _, shown = await cluster.balancer.answer("GET", "/v1/lora_adapters/mine")
        assert [(v["version"], v["active"]) for v in shown["versions"]] == [(2, False), (3, True)]
        assert {"hash", "rank", "target_modules", "base_model", "source", "size", "created"} <= set(
            shown["versions"][0]
        )
        back = "/v1/lora_adapters/mine/rollback"
        assert (await cluster.post(back, {"version": 1}))[0] == 404
        assert (await cluster.post(back, {}))[1]["version"] == 2
        assert (await cluster.post(back, {}))[0] == 409
        assert (await cluster.post(back, {"version": 3}))[1]["version"] == 3
        assert (await cluster.post("/v1/lora_adapters/nobody/rollback", {}))[0] == 404
        assert (await cluster.post(back, {"version": "x"}))[0] == 400


async def test_an_unloaded_adapter_is_gone_everywhere(start: Start) -> None:
    async with start(instances=3) as cluster:
        await cluster.settled(3)
        unload = ("/v1/unload_lora_adapter", {"lora_name": "pirate"})
        assert (await cluster.post(*unload))[1] == {"lora_name": "pirate", "state": "unloaded"}
        assert all(set(names) == {"poet"} for names in (await cluster.held()).values())
        assert await cluster.complete("pirate") == 404
        _, models = await cluster.balancer.answer("GET", "/v1/models")
        assert "pirate" not in [card["id"] for card in models["data"]]
        assert (await cluster.post(*unload))[0] == 404


async def test_what_is_changed_behind_our_back_is_repaired(start: Start, tmp_path: Path) -> None:
    async with start(instances=2) as cluster:
        await cluster.settled(2)
        before = await cluster.held()
        del cluster.engine("instance_0").adapters["poet"]
        await holds(cluster, before)
        cluster.engine("instance_1").adapters["stray"] = make_adapter(tmp_path / "stray")
        await holds(cluster, before)
        assert await cluster.complete("stray") == 404
        assert (await cluster.instance("instance_0"))["restarts"] == 0


async def test_a_worker_that_lacks_an_adapter_is_degraded_and_serves_the_rest(start: Start) -> None:
    async with start(instances=2) as cluster:
        await cluster.settled(2)
        engine = cluster.engine("instance_0")
        engine.broken[LOAD] = 500
        del engine.adapters["poet"]

        async def degraded(wanted: bool = True) -> bool:
            return bool((await cluster.instance("instance_0"))["degraded"]) is wanted

        await until(degraded)
        seen = await cluster.instance("instance_0")
        assert (seen["state"], seen["is_running"]) == ("ready", True)
        assert "poet" in seen["reason"]
        assert seen["models"] == ["demo", "pirate"]
        before = (await cluster.instance("instance_1"))["requests_total"]
        assert [await cluster.complete("poet") for _ in range(6)] == [200] * 6
        assert (await cluster.instance("instance_1"))["requests_total"] == before + 6
        engine.broken.clear()
        cluster.clock.advance(60)
        await until(lambda: degraded(False))


async def test_a_worker_that_dies_in_the_middle_of_a_load_gets_it_when_it_is_back(start: Start, tmp_path: Path) -> None:
    async with start(instances=3) as cluster:
        await cluster.settled(3)
        engine = cluster.engine("instance_1")
        engine.on_load = lambda name: engine.die()
        assert (await cluster.load("mine", make_adapter(tmp_path / "mine")))[0] == 200
        await cluster.settled(3)
        held = await cluster.held()
        assert held["instance_0"] == held["instance_1"] == held["instance_2"] and "mine" in held["instance_0"]


def _agreed(adapters: dict[str, dict[str, Any]], held: dict[str, dict[str, str]]) -> bool:
    """Every worker holds exactly what the registry says, in the registry's version."""
    for adapter in adapters.values():
        if any(i["state"] != "loaded" or i["version"] != adapter["version"] for i in adapter["instances"].values()):
            return False
    return all(set(names) == set(adapters) for names in held.values())


async def agreement(cluster: InProcess) -> None:
    """Returns once they all agree."""

    async def look() -> bool:
        return _agreed(await cluster.adapters(), await cluster.held())

    await until(look)


async def test_fifty_loads_and_unloads_of_the_same_names_at_once_end_in_agreement(start: Start, tmp_path: Path) -> None:
    folders = [make_adapter(tmp_path / f"a{n}", n) for n in range(4)]
    chooser, gate = random.Random(5), asyncio.Semaphore(16)
    async with start(instances=3) as cluster:
        await cluster.settled(3)

        async def change() -> int:
            async with gate:
                name = f"n{chooser.randrange(5)}"
                if chooser.random() < 0.35:
                    return (await cluster.post("/v1/unload_lora_adapter", {"lora_name": name}))[0]
                return (await cluster.load(name, chooser.choice(folders), load_inplace=True))[0]

        assert set(await asyncio.gather(*(change() for _ in range(50)))) <= {200, 404}
        await agreement(cluster)


@pytest.mark.long
async def test_many_more_adapters_than_eight_places_all_answer(start: Start, tmp_path: Path) -> None:
    count = 60
    listed = [{"name": f"a{n}", "path": make_adapter(tmp_path / f"a{n}", n)} for n in range(count)]
    file = tmp_path / "adapters.yaml"
    file.write_text(json.dumps({"lora_adapters": listed, "auto_load": ["a0"], "lora_settings": {"cache_size": 8}}))
    flags = ("--max-loras", "8", "--served-model-name", "demo")
    async with start(instances=1, model=str(model_path()), lora_config=str(file), engine_args=flags) as cluster:
        await cluster.settled(1)
        assert set((await cluster.held())["instance_0"]) == {"a0"}
        for n in range(count):
            assert await cluster.complete(f"a{n}") == 200
            held = (await cluster.held())["instance_0"]
            assert len(held) <= 8 and "a0" in held, "what is to be loaded always stays"
        assert (await cluster.instance("instance_0"))["degraded"] is False
        states = [i["state"] for a in (await cluster.adapters()).values() for i in a["instances"].values()]
        assert states.count("lazy") == count - 8


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_random_operations_with_random_kills_end_in_agreement(start: Start, tmp_path: Path) -> None:
    folders = [make_adapter(tmp_path / f"v{n}", n) for n in range(5)]
    chooser = random.Random(3)
    async with start(instances=3) as cluster:
        await cluster.settled(3)
        for _ in range(80):
            name, dice = f"n{chooser.randrange(6)}", chooser.random()
            if dice < 0.55:
                status, answer = await cluster.load(name, chooser.choice(folders), load_inplace=True)
            elif dice < 0.75:
                status, answer = await cluster.post(f"/v1/lora_adapters/{name}/rollback", {})
            elif dice < 0.93:
                status, answer = await cluster.post("/v1/unload_lora_adapter", {"lora_name": name})
            else:
                cluster.clock.advance(4)  # five kills within 3 s each are a crash loop, and rightly given up
                cluster.engine(f"instance_{chooser.randrange(3)}").die()
                continue
            assert status in (200, 202, 404, 409), answer
        cluster.clock.advance(60)
        await cluster.settled(3)
        await agreement(cluster)
