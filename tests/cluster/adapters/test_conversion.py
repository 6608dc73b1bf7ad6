"""What is not as the engine loads it is converted on its way in, by a process of its own; nothing is left of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import trainers
from adapterfakes import FakeCluster
from cluster.adapters import conversion
from cluster.errors import Refused
from hostile import HARM, Runs, archived, scene
from worker.adapters.files import AdapterRejected
from worker.adapters.foreign import is_foreign
from worker.adapters.shapes import read_base
from worker.demo import adapter_path, model_path

pytestmark = pytest.mark.processes


async def _load(cluster: FakeCluster, path: Path, **more: Any) -> tuple[int, Mapping[str, Any]]:
    return await cluster.rollouts.load("voice", str(path), more.pop("replace_it", False), None, **more)


async def test_a_trainers_folder_is_loaded_as_any_other_and_what_was_done_is_said(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path)
    status, answer = await _load(cluster, trainers.ms_swift(tmp_path / "output"))
    assert (status, answer["version"], answer["state"]) == (200, 1, "loaded")
    assert any("swift_type" in line for line in answer["converted"])
    assert any("was converted: took v11-20260102-100000" in told for told in cluster.told)
    version = cluster.inventory.registry.adapters["voice"].current
    assert version.source == str(tmp_path / "output") and Path(version.path).parent == cluster.store
    # The content is the same as that of the adapter which it was made of, so nothing changes with either.
    assert [folder.name for folder in cluster.store.iterdir()] == [version.hash]

    again, same = await _load(cluster, tmp_path / "output")
    assert (again, same["version"]) == (200, 1) and same["converted"]
    cluster.rollouts.sweep()
    assert [folder.name for folder in cluster.store.iterdir()] == [version.hash]


async def test_adapters_named_with_a_model_are_converted_too(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path)
    await cluster.take_in_given({"voice": trainers.peft_pickle(tmp_path / "old")})
    assert cluster.inventory.registry.adapters["voice"].current.rank == 8


async def test_a_hostile_pickle_ends_in_a_sentence_and_nothing_is_left(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path)
    adapter = trainers.write(tmp_path / "adapter", {}, trainers.config())
    with scene(tmp_path / "scene") as found:
        (adapter / "adapter_model.bin").write_bytes(archived(Runs(HARM["starts a shell"], found.names)))
        with pytest.raises(Refused, match="does more than hold tensors") as caught:
            await _load(cluster, adapter)
        assert caught.value.status == 400 and not found.harmed()
    assert not list(cluster.store.iterdir())


async def test_what_no_engine_serves_is_refused_after_its_conversion_and_nothing_is_left(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path)
    with pytest.raises(Refused, match="use_dora is set"):
        await _load(cluster, trainers.write(tmp_path / "dora", trainers.tensors(), trainers.config(use_dora=True)))
    assert not list(cluster.store.iterdir())


async def test_who_gives_up_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = FakeCluster(tmp_path)
    monkeypatch.setattr(conversion, "_LONGEST", 0.01)
    with pytest.raises(AdapterRejected, match="took longer"):
        await cluster.intake.inspect(trainers.peft_pickle(tmp_path / "old"), cluster.revisions.latest, False)
    assert not list(cluster.store.iterdir())


async def test_where_adapters_may_come_from_holds_for_what_is_converted(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path)
    (tmp_path / "allowed").mkdir()
    plan = cluster.revisions.latest
    plan = replace(plan, settings=plan.settings.model_copy(update={"adapter_root": (tmp_path / "allowed",)}))
    with pytest.raises(AdapterRejected, match="outside of where adapters may come from"):
        await cluster.intake.inspect(trainers.peft_pickle(tmp_path / "old"), plan, False)


def test_only_what_would_change_is_converted(tmp_path: Path) -> None:
    base = read_base(str(model_path()))
    assert not is_foreign(adapter_path("poet"), base)
    for number, (make, _) in enumerate(trainers.LOADED.values()):
        assert is_foreign(make(tmp_path / str(number)), base)
    for number, (make, told) in enumerate(trainers.REFUSED.values()):
        try:
            foreign = is_foreign(make(tmp_path / f"refused-{number}"), base)
        except AdapterRejected as error:
            assert told in str(error)
        else:
            assert foreign  # a pickle: that is seen when it is read
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter_config.json").write_text(json.dumps([]))
    (tmp_path / "broken" / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(AdapterRejected):
        is_foreign(tmp_path / "broken", base)
