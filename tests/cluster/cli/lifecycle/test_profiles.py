"""`model profiles`, and `up` by the name of a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster.cli.lifecycle import up
from cluster.cli.running.models import model_command
from cluster.deployment.profiles import summary
from cluster.deployment.profiles.machine import GB, EngineSummary, MachineSummary
from config.errors import UsageError
from config.settings import Settings
from fakes import clean_environment

HERE = MachineSummary(cores=4, memory=32 * GB, platform="linux-x86_64", engines={"vllm": EngineSummary()})


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)
    monkeypatch.setattr(summary.base, "names", lambda: ("vllm",))
    monkeypatch.setattr(summary, "_engine", lambda name: EngineSummary())
    monkeypatch.setattr(summary.gpus, "detect", lambda visible: [])
    monkeypatch.setattr(summary.limits, "memory", lambda: 32 * GB)


def test_each_profile_is_judged_and_the_chosen_one_marked() -> None:
    shown = CliRunner().invoke(model_command, ["profiles", "qwen2.5-7b"], catch_exceptions=False)
    assert shown.exit_code == 0 and "* cpu: fits (engine vllm, --max-model-len 8192" in shown.output
    assert "  24gb: would need 1 GPU with 24 GB (engine vllm" in shown.output
    found = json.loads(CliRunner().invoke(model_command, ["profiles", "qwen2.5-7b", "--json"]).output)
    assert (found["chosen"], found["forced"], found["path"]) == ("cpu", False, "Qwen/Qwen2.5-7B-Instruct")
    assert [one["needs"] for one in found["profiles"] if one["name"] == "24gb"] == [["1 GPU with 24 GB"]]


def test_none_fits_is_exit_code_one_and_a_forced_one_is_taken() -> None:
    shown = CliRunner().invoke(model_command, ["profiles", "qwen2.5-72b"], standalone_mode=False)
    assert shown.return_value == 1 and "error: model qwen2.5-72b: no profile fits" in shown.output
    shown = CliRunner().invoke(model_command, ["profiles", "qwen2.5-72b", "--profile", "4x80gb"], standalone_mode=False)
    assert shown.return_value == 0 and "* 4x80gb: would need 4 GPUs" in shown.output


def test_models_are_listed_and_an_unknown_one_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "m.yaml").write_text("models: {mine: {path: org/mine, description: Mine\x41}}\n")
    listed = CliRunner().invoke(model_command, ["profiles", "--manifest", str(tmp_path / "m.yaml")]).output
    assert "mine: MineA\n" in listed and "smollm2: " in listed
    asked = CliRunner().invoke(model_command, ["profiles", "qwen2.5-7"], standalone_mode=False)
    assert isinstance(asked.exception, UsageError) and "did you mean 'qwen2.5-7b'" in str(asked.exception)


def test_up_serves_an_entry_and_says_which_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Settings] = []
    monkeypatch.setattr(up.foreground, "run", lambda settings: started.append(settings) or 0)
    monkeypatch.setenv("MIM_MODEL_NAME", "exaone-3.5-2.4b")
    ran = CliRunner().invoke(up.up_command, ["--", "--seed", "1"], catch_exceptions=False)
    assert ran.output == (
        "exaone-3.5-2.4b: profile cpu, engine vllm, which runs code out of the model's repository\n"
    )
    assert started[0].model == "LGAI-EXAONE/EXAONE-3.5-2.4B-Instruct"
    assert {"--trust-remote-code", "--seed", "8192"} <= set(started[0].engine_args)
