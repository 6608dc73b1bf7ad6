"""Whether the model fits where `up` would put it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster.tools.doctor import models
from cluster.tools.doctor.facts import NvmlFacts, Sized
from cluster.tools.doctor.finding import Finding
from cluster.tools.sizing.model import parse
from doctorfacts import GIB, H200, facts, plan
from modelconfigs import LLAMA_3_8B, LLAMA_32_1B, MIXTRAL_8X7B


def _found(config: dict[str, Any], gpus: int = 0, gib: int = 80, **flags: Any) -> list[Finding]:
    made = plan(gpus=gpus, model="org/model", **flags)
    there = tuple(replace(H200, index=i, total=gib * GIB) for i in range(gpus))
    return list(models.findings(facts(plan=made, gpus=NvmlFacts(there, "580"), model=Sized(parse(config)))))


def test_gpus_of_unknown_memory_are_not_judged_by_it() -> None:
    assert _found(LLAMA_3_8B, 1, 0) == []
    made = plan(gpus=2, model="org/model", instances=2)
    there = NvmlFacts((replace(H200, total=0), replace(H200, index=1, total=16 * GIB)), "580")
    (found,) = models.findings(facts(plan=made, gpus=there, model=Sized(parse(LLAMA_3_8B))))
    assert found.level == "problem" and "of 14.7 GiB" in found.text


@pytest.mark.parametrize(
    ("args", "level", "text", "remedy"),
    [
        ((LLAMA_3_8B, 1, 80), "ok", "weights 15.0 GiB, adapters 0.3 GiB, KV cache 56.3 GiB a worker", ""),
        ((LLAMA_3_8B, 1, 16), "problem", "0.0 GiB are left", "see clusterctl plan --model org/model"),
        ((MIXTRAL_8X7B, 2, 80, {"tensor_parallel_size": 2}), "ok", "a worker and GPU: ", ""),
        ((MIXTRAL_8X7B, 2, 80), "problem", "weights 87.0 GiB", "see clusterctl plan"),
        ((LLAMA_3_8B, 1, 80, {"instances": 4, "instances_per_gpu": 4}), "problem", "of 17.6 GiB", "clusterctl plan"),
        ((LLAMA_3_8B, 1, 40, {"engine_args": ["--gpu-memory-utilization", "0.3"]}), "problem", "of 12.0 GiB", "plan"),
        ((LLAMA_32_1B, 1, 8), "problem", "4.0 GiB for one request of 131,072 tokens", "-- --max-model-len 65536; see"),
        ((LLAMA_32_1B, 1, 8, {"engine_args": ["--max-model-len", "8192"]}), "ok", "KV cache 3.", ""),
        ((LLAMA_3_8B,), "ok", "KV cache 1.0 GiB a worker: 8,192 tokens", ""),
        ((LLAMA_3_8B, 0, 0, {"engine_args": ["--dtype", "float32"]}), "problem", "too small", "CPU_KV_GIB=2, or up …"),
        ((LLAMA_32_1B,), "problem", "a KV cache of 1.0 GiB is too small: vLLM wants 4.0 GiB for one request of 131,072",
         "CLUSTERCTL_CPU_KV_GIB=4, or up … -- --max-model-len 32768; see clusterctl plan --model org/model"),
    ],
)  # fmt: skip
def test_a_model_fits_or_what_to_do(args: tuple[Any, ...], level: str, text: str, remedy: str) -> None:
    *where, more = args if isinstance(args[-1], dict) and len(args) > 1 else (*args, {})
    (found,) = _found(*where, **more)
    assert found.level == level and text in found.text and remedy in found.remedy, found


def test_without_adapters_there_is_no_room_for_them() -> None:
    (found,) = _found(LLAMA_3_8B, 1, 80, engine_args=["--no-enable-lora"])
    assert "adapters 0.0 GiB" in found.text


@pytest.mark.parametrize("flags", [{"engine_args": ["--kv-cache-memory-bytes", "5"]}, {"engine": "sim"}])
def test_other_questions_are_not_answered(flags: dict[str, Any]) -> None:
    assert _found(LLAMA_3_8B, **flags) == []


def test_a_model_of_unknown_size_is_no_fault() -> None:
    (found,) = models.findings(facts(model=Sized(error="--model org/model: no folder")))
    assert (found.level, found.text) == ("ok", "how much memory it takes is not known: --model org/model: no folder")
    assert list(models.findings(facts())) == []
