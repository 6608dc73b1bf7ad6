"""`plan` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from cluster.cli import cli
from config.errors import UsageError
from modelconfigs import LLAMA_3_8B, MIXTRAL_8X7B
from worker import gpus

GIB = 1024**3


@pytest.fixture(autouse=True)
def _no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "detect", lambda visible: [])


@pytest.fixture
def llama(tmp_path: Path) -> str:
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text(json.dumps(LLAMA_3_8B))
    return str(tmp_path / "llama")


def _run(*args: str) -> Result:
    return CliRunner().invoke(cli, ["plan", *args], standalone_mode=False)  # as `main` calls it


def _json(*args: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_run(*args, "--json").stdout)
    return found


def _refused(*args: str) -> UsageError:
    error = _run(*args).exception
    assert isinstance(error, UsageError) and "\n" not in str(error)
    return error


def test_a_model_may_be_named_as_a_manifest_has_it() -> None:
    assert _json("--model", "demo", "--cpu", "--dtype", "float32")["bytes"] == _json("--cpu")["bytes"]
    refused = str(_refused("--model", "qwen2.5-7b", "--cpu"))
    assert "--model Qwen/Qwen2.5-7B-Instruct: no folder, and no model" in refused


def test_less_of_a_gpu_may_be_taken(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    args = ("--model", llama, "--gpu-memory", "80", "--gpus", "1")
    usual = _json(*args)["bytes"]["budget"]
    assert _json(*args, "--max-gpu-memory", "0.5")["bytes"]["budget"] == 40 * GIB < usual
    monkeypatch.setenv("MAX_GPU_MEMORY", "50%")
    found = _json(*args)
    assert found["bytes"]["budget"] == 40 * GIB and found["command"].startswith("CLUSTERCTL_MAX_GPU_MEMORY=0.5 cluster")
    assert isinstance(_run(*args, "--max-gpu-memory", "80").exception, click.BadParameter)


def test_the_line_of_the_issue(llama: str) -> None:
    machine = ("--gpu-memory", "80", "--gpus", "4")
    wanted = ("--adapters", "8", "--rank", "32", "--context", "4096", "--concurrency", "64")
    args = ("--model", llama, *machine, *wanted)
    result = _run(*args)
    assert result.return_value == 0
    assert result.stdout.startswith(f"{llama} fits on 4 GPUs of 80 GiB: 4 instances, room for 64 requests of 4,096")
    last = f"clusterctl up --instances 4 --model {llama} -- --max-model-len 4096 --max-loras 8 --max-lora-rank 32"
    assert result.stdout.splitlines()[-1].strip() == last
    found = _json(*args)
    assert (found["verdict"], found["instances"], found["parameters"]) == ("fits", 4, 8_030_261_248)
    assert found["bytes"]["weights"] == 16_060_522_496 and found["kv"]["bytes_per_token"] == 131_072
    assert found["command"] == last


def test_what_does_not_fit_is_exit_code_one(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL_8X7B))
    args = ("--model", str(tmp_path), "--gpu-memory", "80")
    assert _run(*args).return_value == 1 and "What would make it fit" in _run(*args).stdout
    found = _json(*args)
    assert (found["verdict"], found["instances"], found["command"]) == ("does not fit", 0, "")
    assert "2 GPUs of 80 GiB" in found["remedies"]


def test_the_demo_model_is_planned_as_up_serves_it() -> None:
    found = _json("--memory", "24", "--cpu-kv-gib", "1")
    assert (found["dtype"], found["bytes"]["weights"]) == ("float32", 1_049_728 * 4)
    assert (found["kv"]["blocks"], found["kv"]["tokens"], found["asked"]["context"]) == (2048, 262_144, 2048)
    assert found["command"].startswith("CLUSTERCTL_CPU_KV_GIB=1 clusterctl up --instances ")
    assert " --model " not in found["command"]


def test_gpus_of_this_machine_are_the_default(monkeypatch: pytest.MonkeyPatch, llama: str) -> None:
    found = [gpus.Gpu(i, f"GPU-{i}", "A100", (80 - i) * GIB, 0) for i in range(2)]
    monkeypatch.setattr(gpus, "detect", lambda visible: found)
    assert _json("--model", llama)["machine"] == {"gpus": 2, "memory_bytes": 79 * GIB, "cores": 1}
    assert _json("--model", llama, "--gpus", "1")["machine"]["gpus"] == 1
    assert _json("--model", llama, "--gpu-memory", "24")["machine"] == {"gpus": 2, "memory_bytes": 24 * GIB, "cores": 1}
    assert _json("--model", llama, "--cpu")["machine"]["gpus"] == 0
    found[1] = gpus.Gpu(1, "GPU-1", "GB10", 0, 0)
    assert _json("--model", llama)["machine"] == {"gpus": 2, "memory_bytes": 80 * GIB, "cores": 1}
    found[:] = [found[1]]
    assert "--gpu-memory has to say it" in str(_refused("--model", llama))
    assert _json("--model", llama, "--memory", "64")["machine"]["memory_bytes"] == 64 * GIB


def test_this_machines_memory_where_there_is_no_gpu(llama: str) -> None:
    found = _json("--model", llama)
    assert found["machine"]["gpus"] == 0 and found["machine"]["memory_bytes"] > GIB // 2


@pytest.mark.parametrize(
    ("args", "told", "code"),
    [
        (("--model", "/none"), "--model /none: no such folder", 1),
        (("--model", "org/none"), "--model org/none: no folder, and no model in the Hugging Face cache", 1),
        (("--gpus", "4"), "--gpus: this machine has none, so --gpu-memory has to say how large they are", 2),
        (("--cpu", "--gpus", "4"), "which?", 2),
        (("--memory", "9", "--gpu-memory", "4"), "which?", 2),
        (("--context", "4096"), "--context 4096: the model's own limit is 2048 tokens", 2),
        (("--gpu-memory", "8", "--tensor-parallel-size", "2"), "--tensor-parallel-size 2: there are 1 GPUs", 2),
        (("--gpus", "8", "--gpu-memory", "8", "--tensor-parallel-size", "8"), "divides the 4 attention heads", 2),
        (("--cpu", "--kv-cache-dtype", "fp8"), "--kv-cache-dtype fp8: it is known for GPUs only", 2),
        (("--gpu-memory", "8", "--cpu-kv-gib", "1"), "--cpu-kv-gib: only for a plan without GPUs", 2),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(args: tuple[str, ...], told: str, code: int) -> None:
    error = _refused(*args)
    assert told in str(error) and error.exit_code == code


def test_a_rank_becomes_one_that_vllm_takes(llama: str) -> None:
    assert _json("--model", llama, "--rank", "20", "--gpu-memory", "80")["asked"]["rank"] == 32
    for wrong in (("--rank", "513"), ("--concurrency", "0"), ("--gpu-memory", "nan")):
        assert isinstance(_run(*wrong).exception, click.UsageError)


def test_the_type_that_is_served_in(llama: str) -> None:
    found = _json("--model", llama, "--gpu-memory", "80", "--dtype", "float32")
    assert found["bytes"]["weights"] == 8_030_261_248 * 4 and found["command"].endswith("--dtype float32")
