"""Adapters over a whole cluster: on all workers or on none, whatever a worker does. In one process: real supervisor and
balancer, workers that are none."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from adapterfakes import make_adapter
from inprocess import InProcess, running, until

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
        stored = cluster.supervisor.state.adapters
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
