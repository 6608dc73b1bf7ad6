"""A cluster of several models: each has workers of its own, its adapters, and requests go to those who serve them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from cluster.adapters.registry import Adapter, from_rows, to_rows
from config.topology import BackendSet
from fakes import soon
from inprocess import InProcess, running
from worker.demo import adapter_path

ADAPTER = str(adapter_path("pirate"))


def backend_set(cluster: InProcess) -> BackendSet:
    return cluster.parts.backends.as_of((1, 1))


def cards(cluster: InProcess) -> dict[str, set[str]]:
    """What may be asked of each worker."""
    return {backend.id: {card["id"] for card in backend.models} for backend in backend_set(cluster).backends}


def up(**more: Any) -> dict[str, Any]:
    """A model that is there from the start."""
    return {"path": "demo", "on_demand": False, **more}


async def test_each_model_is_answered_by_its_own_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"qwen2.5": up(instances=2, served_names="q"), "b": up(), "c": "demo"}
    async with running(tmp_path / "state", monkeypatch, models=models) as cluster:
        status = await cluster.settled(3)
        assert set(status["instances"]) == {"qwen2.5/instance_0", "qwen2.5/instance_1", "b/instance_0"}
        assert [await cluster.complete(name) for name in ("qwen2.5", "b", "q")] == [200, 200, 200]
        assert {model for model, _ in cluster.engine("b/instance_0").asked if model != "demo"} == {"b"}
        told = backend_set(cluster)
        assert [(m.name, m.names, m.group, m.state, m.is_default) for m in told.models] == [
            ("qwen2.5", ("qwen2.5", "q"), "qwen2.5", "up", True), ("b", ("b",), "b", "up", False),
            ("c", ("c",), "c", "down", False),
        ]  # fmt: skip
        assert {backend.group for backend in told.backends} == {"qwen2.5", "b"}
        assert BackendSet.from_json(told.to_json()) == told


async def test_an_adapter_is_on_the_workers_of_its_model_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"a": up(adapters={"given": ADAPTER}), "b": up(), "c": "demo"}
    async with running(tmp_path / "state", monkeypatch, models=models) as cluster:
        await cluster.settled(2)
        assert cards(cluster) == {"a/instance_0": {"a", "given"}, "b/instance_0": {"b"}}
        status, refused = await cluster.load("mine", ADAPTER)
        assert status == 409 and '"model" is one of a, b, c' in refused["error"]["message"]
        assert (await cluster.load("mine", ADAPTER, model="d"))[0] == 404
        assert (await cluster.load("c", ADAPTER, model="a"))[0] == 409
        assert (await cluster.load("mine", ADAPTER, model="b"))[0] == 200
        assert cards(cluster) == {"a/instance_0": {"a", "given"}, "b/instance_0": {"b", "mine"}}
        assert (await cluster.load("mine", ADAPTER, model="a"))[0] == 409, "it is b's"
        assert (await cluster.load("mine", "/absent", model="a"))[0] == 409, "which is said before its files are read"
        assert (await cluster.load("later", ADAPTER, model="c"))[0] == 202, "nobody serves that now"
        parents = {card["id"]: card["parent"] for card in backend_set(cluster).registered}
        assert parents == {"given": "a", "mine": "b", "later": "c"}
        shown = await cluster.adapters()
        assert {name: (one["model"], set(one["instances"])) for name, one in shown.items()} == {
            "given": ("a", {"a/instance_0"}), "mine": ("b", {"b/instance_0"}), "later": ("c", set()),
        }  # fmt: skip
        assert [await cluster.complete(name) for name in ("given", "mine")] == [200, 200]
        assert (await cluster.post("/v1/unload_lora_adapter", {"lora_name": "mine"}))[0] == 200
        assert cards(cluster) == {"a/instance_0": {"a", "given"}, "b/instance_0": {"b"}}


async def test_the_one_model_of_before_goes_on_beside_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path / "state", monkeypatch, model="org/m", models={"b": up()}) as cluster:
        await cluster.settled(2)
        assert set(cards(cluster)) == {"instance_0", "b/instance_0"}
        told = {one.name: (one.group, one.is_default) for one in backend_set(cluster).models}
        assert told == {"org/m": ("default", True), "b": ("b", False)}
        assert [await cluster.complete(name) for name in ("org/m", "b")] == [200, 200]


async def test_a_cluster_with_one_model_tells_nothing_of_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path / "state", monkeypatch, instances=1) as cluster:
        await cluster.settled(1)
        told = backend_set(cluster).to_json()
        assert "models" not in told and {backend["group"] for backend in told["backends"]} == {"default"}


def test_an_adapter_of_before_is_the_default_groups() -> None:
    kept = [("old", '{"active": 1, "description": "", "auto_load": true, "pinned": false}')]
    assert from_rows(kept, []).adapters["old"].group == "default"
    assert "group" not in to_rows(Adapter("old", 1, ()))[0]
    own, _ = to_rows(Adapter("new", 1, (), group="b"))
    assert own["group"] == "b"


async def test_a_worker_that_dies_is_replaced_in_its_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(ADAPTER, folder)
    async with running(
        tmp_path / "state", monkeypatch, models={"a": up(adapters={"mine": str(folder)}), "b": up()}
    ) as cluster:
        await cluster.settled(2)
        cluster.engine("a/instance_0").die()
        await soon(lambda: cluster.started("a/instance_0") == 2)
        await soon(lambda: cards(cluster) == {"a/instance_0": {"a", "mine"}, "b/instance_0": {"b"}})
        assert cluster.started("b/instance_0") == 1
