"""What `plan` and `doctor` say, against the engine itself: its model in one process, without a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import CLI, clusterctl, environment, free_port
from worker.demo import model_path

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]

SLOTS, RANK = 4, 16

#: Weights are counted before they are packed for the processor, which hides them from ``parameters()``.
_MEASURE = """
import json, sys
from vllm import LLM
from vllm.model_executor.model_loader import base_loader

weights = []
pack = base_loader.process_weights_after_loading

def counted(model, *rest):
    seen = {p.data_ptr(): p.numel() * p.element_size() for p in model.parameters()}
    weights.append(sum(seen.values()))
    return pack(model, *rest)

base_loader.process_weights_after_loading = counted

def adapters(worker):
    seen = {}
    for module in worker.model_runner.model.modules():
        for name in ("lora_a_stacked", "lora_b_stacked"):
            found = getattr(module, name, ())
            for tensor in found if isinstance(found, (tuple, list)) else (found,):
                seen[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
    return sum(seen.values())

engine = LLM(sys.argv[1], dtype="float32", enable_lora=True, max_loras=int(sys.argv[2]), max_lora_rank=int(sys.argv[3]),
             kv_cache_memory_bytes=2**26, enforce_eager=True)
print("\\n" + json.dumps({"weights": weights, "adapters": engine.collective_rpc(adapters)[0]}))
"""

_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_ALLOW_INSECURE_SERIALIZATION": "1", "VLLM_NO_USAGE_STATS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONSAFEPATH": "1",
}  # fmt: skip


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """Both at once, as each spends its time on imports."""
    folder = tmp_path_factory.mktemp("engine")
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": folder}
    measure = [sys.executable, "-c", _MEASURE, str(model_path()), str(SLOTS), str(RANK)]
    doctor = [CLI, "doctor", "--port", str(free_port()), "--import-timeout", "240", "--json"]
    running = {
        "measure": subprocess.Popen(measure, env={**os.environ, **_ENVIRONMENT}, **pipes),
        "doctor": subprocess.Popen(doctor, env=environment(XDG_STATE_HOME=str(folder)), **pipes),
    }
    yield running
    for process in running.values():
        process.kill()
        process.communicate()


def test_weights_and_adapters_take_what_plan_says(started: dict[str, subprocess.Popen[str]]) -> None:
    out, err = started["measure"].communicate(timeout=240)
    assert started["measure"].returncode == 0, err[-3000:]
    measured = json.loads(out.strip().splitlines()[-1])
    wanted = ("--memory", "24", "--adapters", str(SLOTS), "--rank", str(RANK))
    planned = json.loads(clusterctl("plan", *wanted, "--json").stdout)["bytes"]
    assert measured["weights"] == [planned["weights"]]
    assert 2 * measured["adapters"] == planned["adapters"], "on a processor they are there twice: as read, and in use"


def test_doctor_imports_the_engine_that_is_installed(started: dict[str, subprocess.Popen[str]]) -> None:
    out, err = started["doctor"].communicate(timeout=240)
    assert out, err
    findings = [found for found in json.loads(out)["findings"] if found["check"] in ("engine", "torch")]
    assert [found["level"] for found in findings] == ["ok"]
    assert "vLLM 0.32" in findings[0]["text"] and " imported in " in findings[0]["text"]


def test_doctor_changes_nothing(tmp_path: Path) -> None:
    port = free_port()
    result = clusterctl("doctor", "--port", str(port), "--import-timeout", "0", XDG_STATE_HOME=str(tmp_path))
    assert f"listen on 127.0.0.1:{port}" in result.stdout
    assert list(tmp_path.iterdir()) == []
