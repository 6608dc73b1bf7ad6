"""The numbers of the shipped manifest are those of the sizing tool, computed again."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.deployment.profiles.choice import _THERE, choose
from cluster.deployment.profiles.machine import GB, EngineSummary, GpuSummary, MachineSummary
from cluster.tools.sizing import memory, model
from cluster.tools.sizing.fit import Hardware, Load, on_cpu, on_gpus, tensor_sizes
from cluster.tools.sizing.memory import GIB
from config.manifests import file
from config.manifests.schema import HardwareProfile
from modelconfigs import (
    EXAONE_35_24B,
    EXAONE_35_32B,
    EXAONE_35_78B,
    LLAMA_31_8B,
    LLAMA_32_1B,
    LLAMA_33_70B,
    QWEN_25_05B,
    QWEN_25_7B,
    QWEN_25_14B,
    QWEN_25_32B,
    QWEN_25_72B,
    SMOLLM2_135M,
)  # fmt: skip
from worker.engine_spec import LORA_RANKS
from worker.engines.vllm import PROCESS_BYTES

CONFIGS = {
    "smollm2": SMOLLM2_135M, "qwen2.5-0.5b": QWEN_25_05B, "qwen2.5-7b": QWEN_25_7B, "qwen2.5-14b": QWEN_25_14B,
    "qwen2.5-32b": QWEN_25_32B, "qwen2.5-72b": QWEN_25_72B, "llama-3.2-1b": LLAMA_32_1B, "llama-3.1-8b": LLAMA_31_8B,
    "llama-3.3-70b": LLAMA_33_70B, "exaone-3.5-2.4b": EXAONE_35_24B, "exaone-3.5-7.8b": EXAONE_35_78B,
    "exaone-3.5-32b": EXAONE_35_32B,
}  # fmt: skip
SIZED = [
    (name, profile) for name, entry in file.entries(None).items() for profile in entry.profiles
    if name in CONFIGS and profile.engine == "vllm"
]  # fmt: skip

#: Requests that a profile holds at a time, on GPUs and without.
AT_ONCE, AT_ONCE_CPU, CONTEXT_CPU = 8, 2, 8192


def _shape(name: str, profile: HardwareProfile) -> model.ModelShape:
    config: dict[str, Any] = CONFIGS[name]
    if "AWQ" in (profile.path or ""):
        config = {**config, "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 128}}
    elif profile.quantization == "fp8":
        config = {**config, "quantization_config": {"quant_method": "fp8"}}
    return model.parse(config)


def _load(profile: HardwareProfile, context: int, at_once: int) -> Load:
    return Load(profile.max_loras or 0, profile.max_lora_rank or 16, context, at_once)


@pytest.mark.parametrize(
    ("gpus", "installed", "chosen"),
    [((), ("vllm", "llamacpp"), "llamacpp"), ((), ("vllm",), "cpu"), ((24,), ("vllm", "llamacpp"), "8gb"),
     ((4,), ("vllm", "llamacpp"), "llamacpp")],
)  # fmt: skip
def test_smollm2_comes_out_of_its_wheel_where_no_gpu_is_better(
    gpus: tuple[int, ...], installed: tuple[str, ...], chosen: str
) -> None:
    engines = {name: EngineSummary(on_gpu=bool(gpus), on_cpu=not gpus) for name in installed}
    machine = MachineSummary(tuple(GpuSummary("A", size * GB) for size in gpus), 2, 16 * GB, "linux", engines)
    profile = choose("smollm2", file.entries(None)["smollm2"], machine)
    assert profile is not None and profile.name == chosen


def test_every_entry_is_sized_but_for_the_demo() -> None:
    assert set(CONFIGS) == set(file.entries(None)) - {"demo"}
    assert all((profile.max_loras, profile.max_lora_rank in LORA_RANKS) == (4, True) for _, profile in SIZED)


@pytest.mark.parametrize(
    ("name", "profile"), [(n, p) for n, p in SIZED if not p.when.cpu], ids=lambda given: getattr(given, "name", given)
)
def test_on_gpus_the_context_is_the_longest_of_which_eight_fit(name: str, profile: HardwareProfile) -> None:
    shape, ranks = _shape(name, profile), profile.tensor_parallel_size
    assert ranks == (profile.when.count or 1) and ranks in tensor_sizes(shape, ranks)
    place = Hardware(ranks, int((profile.when.memory_gb or 0) * GB * _THERE))
    weights = memory.weights(shape, None)
    contexts = [context for power in range(11, 25) if (context := 1 << power) < shape.limit] + [shape.limit]
    fitting = [
        context for context in contexts
        if on_gpus(shape, weights, _load(profile, context, AT_ONCE), place, ranks).enough
    ]  # fmt: skip
    assert profile.max_model_len == max(fitting)


@pytest.mark.parametrize(
    ("name", "profile"), [(n, p) for n, p in SIZED if p.when.cpu], ids=lambda given: getattr(given, "name", given)
)
def test_without_gpus_cache_and_main_memory_are_the_least(name: str, profile: HardwareProfile) -> None:
    shape = _shape(name, profile)
    assert profile.max_model_len == CONTEXT_CPU and profile.cpu_kv_gib and profile.when.ram_gb
    ask, weights = _load(profile, CONTEXT_CPU, AT_ONCE_CPU), memory.weights(shape, None)

    def place(gigabytes: float) -> Hardware:
        return Hardware(0, int(gigabytes * GB * _THERE), 4, PROCESS_BYTES)

    least = on_cpu(shape, weights, ask, place(1 << 20), 1)
    assert profile.cpu_kv_gib == least.kv / GIB
    sizes = [size for size in (8, 16, 24, 32, 48, 64, 96, 128) if on_cpu(shape, weights, ask, place(size), 1).enough]
    assert profile.when.ram_gb == sizes[0]
