"""`clusterctl lora convert` and `lora validate`: what was done is said in lines, or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import trainers
from cluster.cli import main
from cluster.cli.workload.lora.jobs import convert
from worker.adapters.files import content_hash
from worker.demo import adapter_path, model_path

pytestmark = pytest.mark.processes

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `clusterctl lora …` as a shell would; its exit code, output and errors."""

    def lora_command(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["clusterctl", "lora", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return lora_command


def test_a_trainers_folder_becomes_a_plain_adapter_and_one_for_llama_cpp(run: Run, tmp_path: Path) -> None:
    made, out, again = trainers.ms_swift(tmp_path / "output"), tmp_path / "out", tmp_path / "again"
    code, text, _ = run("convert", made, "--out", out, "--to", "gguf", "--base", model_path())
    lines = text.splitlines()
    assert code == 0 and lines[0] == "took v11-20260102-100000/checkpoint-30 of 2 adapters below output"
    assert any(line.startswith("renamed 56 tensors: ") for line in lines)
    assert lines[-1] == f"adapter.gguf, adapter_config.json, adapter_model.safetensors in {out}"
    said = json.loads(run("convert", out, "--out", again, "--json")[1])
    assert said["done"] == [] and said["missing"] == [] and len(said["walls"]) >= 4
    assert content_hash(again) == content_hash(out)


def test_what_cannot_be_converted_leaves_nothing(run: Run, tmp_path: Path) -> None:
    make, told = trainers.REFUSED["shards of DeepSpeed"]
    code, _, errors = run("convert", make(tmp_path / "run"), "--out", tmp_path / "out")
    assert code == 2 and told in errors and not (tmp_path / "out").exists()


def test_no_folder_is_said_before_any_process_is_started(run: Run, tmp_path: Path) -> None:
    code, _, said = run("convert", str(tmp_path / "none"), "--out", str(tmp_path / "out"))
    assert code == 1 and said == f"error: {tmp_path}/none: no such folder\n"


def test_a_pickle_is_validated_as_what_it_becomes(run: Run, tmp_path: Path) -> None:
    made = trainers.peft_pickle(tmp_path / "old")
    said = json.loads(run("validate", made, "--json")[1])
    assert said["rank"] == 8 and said["converted"][0].startswith("read 56 tensors out of adapter_model.bin")
    assert sorted(each.name for each in made.iterdir()) == ["adapter_config.json", "adapter_model.bin"]


def test_validation_starts_no_process_for_what_is_as_it_should_be_or_is_none(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convert, "run_job", lambda *_, **__: pytest.fail("a job"))
    assert json.loads(run("validate", adapter_path("poet"), "--json")[1])["converted"] == []
    make, told = trainers.REFUSED["Axolotl's merged model"]
    code, _, errors = run("validate", make(tmp_path / "merged"))
    assert code == 1 and told in errors
