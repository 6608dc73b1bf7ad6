"""Looks at this machine, as far as profiles ask for it."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

from cluster.deployment import limits
from cluster.deployment.profiles.machine import EngineSummary, GpuSummary, MachineSummary
from config.errors import UsageError
from config.settings import visible_gpus
from worker import gpus
from worker.engines import base


def look() -> MachineSummary:
    """Of this machine. Raises UsageError for GPUs that are named as no GPU is."""
    found = gpus.detect(visible_gpus())
    return MachineSummary(
        gpus=tuple(GpuSummary(gpu.name, gpu.memory_total) for gpu in found), cores=len(os.sched_getaffinity(0)),
        memory=limits.memory(), platform=f"{sys.platform}-{platform.machine()}",
        engines={name: _engine(name) for name in base.names()}, avx2=_has_avx2(),
    )  # fmt: skip


def _has_avx2(info: Path = Path("/proc/cpuinfo")) -> bool:
    try:
        lines = info.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.startswith("flags") and "avx2" in line.split() for line in lines)


def _engine(name: str) -> EngineSummary:
    engine = base.load(name)
    try:
        engine.check()
    except UsageError as error:
        return EngineSummary(missing=str(error))
    return EngineSummary(on_gpu=engine.finds_gpus, on_cpu=not (engine.uses_gpu and engine.finds_gpus))
