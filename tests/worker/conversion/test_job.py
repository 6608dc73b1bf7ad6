"""The job `convert`, in processes as they are: five trainers' adapters come out as PEFT would have written them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import trainers
from cluster.jobs.process import JobEnded, follow, start
from config.jobs.folder import JobSpec
from harness import environment
from hostile import HARM, Runs, archived, scene
from worker.adapters import files
from worker.confinement.process import Confinement
from worker.conversion import job, source
from worker.conversion.arguments import check
from worker.conversion.job import RESULT
from worker.conversion.layouts import Unservable
from worker.demo import adapter_path, model_path
from worker.jobs.job import Job, JobFailed

pytestmark = pytest.mark.processes


def _convert(folder: Path, **arguments: Any) -> Mapping[str, Any]:
    process = start(folder, JobSpec("convert", arguments), environment())
    return follow(folder, process, lambda said: None)


def _inspect(folder: Path) -> files.AdapterFacts:
    base = files.read_base(str(model_path()))
    return files.inspect(folder, base=base, served_names=("demo",), max_rank=16)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Mapping[str, Any]]:
    """Does the job in this process, which stays as it is: each of its own imports torch first."""
    monkeypatch.setattr(job, "_THREADS", ())
    monkeypatch.setattr(job, "_confine", lambda *_: Confinement((), ()))
    monkeypatch.setattr(job.os, "environ", {})

    def convert(folder: Path, **arguments: Any) -> Mapping[str, Any]:
        folder.mkdir()
        return job.run(arguments, Job(folder, time.monotonic))

    return convert


@pytest.mark.parametrize("name", trainers.LOADED)
def test_five_trainers_adapters_are_brought_to_what_the_engine_loads(
    name: str, here: Callable[..., Mapping[str, Any]], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    make, told = trainers.LOADED[name]
    result = here(tmp_path / "job", source=str(make(tmp_path / "source")), base=str(model_path()))
    assert any(told in line for line in result["done"]), result["done"]
    assert _inspect(Path(result["folder"])).rank == 8
    found, wanted = load_file(Path(result["folder"]) / "adapter_model.safetensors"), trainers.tensors()
    assert found.keys() == wanted.keys()
    same = {key for key in found if found[key].equal(wanted[key])}
    assert same == set(wanted) or (name == "fused projections" and {key for key in wanted if "lora_B" in key} <= same)


@pytest.mark.parametrize("name", trainers.REFUSED)
def test_what_cannot_be_brought_over_is_refused_in_a_sentence(
    name: str, here: Callable[..., Mapping[str, Any]], tmp_path: Path
) -> None:
    make, told = trainers.REFUSED[name]
    with pytest.raises(JobFailed) as caught:
        here(tmp_path / "job", source=str(make(tmp_path / "source")))
    assert caught.value.status == 400
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", trainers.UNSERVED)
def test_what_no_engine_serves_stays_what_it_is_and_is_refused_by_the_checks(
    name: str, here: Callable[..., Mapping[str, Any]], tmp_path: Path
) -> None:
    make, told = trainers.UNSERVED[name]
    result = here(tmp_path / "job", source=str(make(tmp_path / "source")))
    with pytest.raises(files.AdapterRejected, match=re.escape(told)):
        _inspect(Path(result["folder"]))


def test_a_confined_process_does_it(tmp_path: Path) -> None:
    made = trainers.ms_swift(tmp_path / "source")
    result = _convert(tmp_path / "job", source=str(made), base=str(model_path()))
    assert len(result["walls"]) >= 4 and not result["missing"]
    assert _inspect(Path(result["folder"])).rank == 8
    # The same content whoever made it: it is stored by its hash.
    assert files.content_hash(Path(result["folder"])) == _inspect(Path(result["folder"])).content_hash


def test_a_hostile_pickle_in_an_adapter_does_no_harm(tmp_path: Path) -> None:
    adapter = trainers.write(tmp_path / "adapter", {}, trainers.config())
    with scene(tmp_path / "scene") as found:
        (adapter / "adapter_model.bin").write_bytes(archived(Runs(HARM["writes a file"], found.names)))
        with pytest.raises(JobEnded, match="asks for exec"):
            _convert(tmp_path / "job", source=str(adapter))
        assert not found.harmed()


def test_a_link_out_of_the_folder_is_not_followed(here: Callable[..., Mapping[str, Any]], tmp_path: Path) -> None:
    adapter = trainers.write(tmp_path / "adapter", {}, trainers.config())
    (adapter / "adapter_model.bin").unlink()
    (adapter / "adapter_model.bin").symlink_to(trainers.peft_pickle(tmp_path / "other") / "adapter_model.bin")
    with pytest.raises(JobFailed, match="leads out"):
        here(tmp_path / "job", source=str(adapter))
    cached = tmp_path / "models--a--b" / "snapshots" / "1"  # links into its blobs are how a cache is made
    cached.mkdir(parents=True)
    (cached.parents[1] / "blobs").mkdir()
    for file in trainers.peft_pickle(tmp_path / "whole").iterdir():
        (cached / file.name).symlink_to(file.rename(cached.parents[1] / "blobs" / file.name))
    assert here(tmp_path / "again", source=str(cached))["done"]


def test_nothing_is_left_of_what_failed_and_nothing_is_written_over(
    here: Callable[..., Mapping[str, Any]], tmp_path: Path
) -> None:
    out, norm = tmp_path / "out", {"norm": trainers.tensors().popitem()[1]}
    made = trainers.write(tmp_path / "source", norm, trainers.config())
    with pytest.raises(JobFailed, match="LoRA matrix"):
        here(tmp_path / "job", source=str(made), out=str(out))
    assert not list(out.iterdir())
    (out / "mine").write_text("mine")
    with pytest.raises(JobFailed, match="not empty"):
        here(tmp_path / "again", source=str(trainers.peft_pickle(tmp_path / "good")), out=str(out))
    assert [each.name for each in out.iterdir()] == ["mine"]


def test_what_it_makes_for_llama_cpp_is_what_a_worker_would_make(
    here: Callable[..., Mapping[str, Any]], tmp_path: Path
) -> None:
    from worker.demo import gguf_path
    from worker.gguf import adapter, header

    done = here(tmp_path / "job", source=str(adapter_path("poet")), to="gguf", base=str(model_path()))
    assert "adapter.gguf" in done["files"]
    adapter.convert(adapter_path("poet"), header.read(gguf_path()), tmp_path / "own.gguf")
    assert (tmp_path / "job" / RESULT / "adapter.gguf").read_bytes() == (tmp_path / "own.gguf").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "source"), ({"source": "/x", "speed": 3}, "speed"), ({"source": "/x", "to": "onnx"}, "not 'onnx'"),
        ({"source": "/x", "to": "gguf"}, "--base"),
    ],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(JobFailed, match=told):
        check(arguments)


def test_final_wins_over_checkpoints_and_links_are_no_folders_to_look_in(tmp_path: Path) -> None:
    for name in ("checkpoint-9", "checkpoint-10", "final"):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "adapter_config.json").write_text("{}")
        (tmp_path / "run" / name / "adapter_model.safetensors").write_bytes(b"")
    assert source.locate(tmp_path / "run").folder.name == "final"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "link").symlink_to(tmp_path / "run")
    with pytest.raises(Unservable, match="nor does a folder below it"):
        source.locate(tmp_path / "other")


def test_a_configuration_that_is_none(tmp_path: Path) -> None:
    adapter = trainers.write(tmp_path / "adapter", {}, None)
    for text in ("[]", "{", json.dumps({"a": [0] * 60_000})):
        (adapter / "adapter_config.json").write_text(text)
        with pytest.raises(JobFailed, match=r"adapter_config\.json"):
            job._config(source.locate(adapter))
