"""What NVML says of the GPUs and of who uses them. `worker.gpus` knows what placing workers needs; this knows more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pynvml

from cluster.tools.doctor.facts import GpuFacts, GpuUser, NvmlFacts
from worker.gpus import Gpu as Usable
from worker.gpus import memory_of, text_of, visible_only

_MODES = {0: "default", 1: "exclusive", 2: "prohibited", 3: "exclusive"}


def look(visible: str | None, nvml: Any = pynvml, devices: Path = Path("/dev")) -> NvmlFacts:
    """All GPUs; never raises. ``visible`` is the value of CUDA_VISIBLE_DEVICES, ``nvml`` the module to ask."""
    there = any(devices.glob("nvidia[0-9]*"))
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        return NvmlFacts(error=str(error), devices=there, visible=visible)
    try:
        driver = text_of(nvml.nvmlSystemGetDriverVersion())
        found, failed = _all(nvml)
    except nvml.NVMLError as error:
        return NvmlFacts(error=str(error), devices=there, visible=visible)
    finally:
        nvml.nvmlShutdown()
    usable = {g.index for g in visible_only([Usable(g.index, g.uuid, g.name, g.total, g.used) for g in found], visible)}
    seen = tuple(replace(gpu, visible=False) if gpu.index not in usable else gpu for gpu in found)
    why = next(iter(failed.values())) if failed and not seen else None
    return NvmlFacts(seen, driver, why, there, visible, failed)


def _all(nvml: Any) -> tuple[list[GpuFacts], dict[int, str]]:
    """And what NVML says of those that do not answer: the others can work."""
    found, failed = [], {}
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            found.append(_gpu(nvml, index))
        except nvml.NVMLError as error:
            failed[index] = str(error)
    return found, failed


def _gpu(nvml: Any, index: int) -> GpuFacts:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    total, used = memory_of(nvml, handle)
    mode = _asked(nvml, lambda: nvml.nvmlDeviceGetComputeMode(handle), 0)
    mig = _asked(nvml, lambda: nvml.nvmlDeviceGetMigMode(handle)[0], 0)
    return GpuFacts(
        index=index, uuid=text_of(nvml.nvmlDeviceGetUUID(handle)), name=text_of(nvml.nvmlDeviceGetName(handle)),
        total=total, used=used, users=_users(nvml, handle),
        mode=_MODES.get(int(mode), "default"), mig=bool(mig),
    )  # fmt: skip


def _users(nvml: Any, handle: Any) -> tuple[GpuUser, ...]:
    running = _asked(nvml, lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle), [])
    drawing = _asked(nvml, lambda: nvml.nvmlDeviceGetGraphicsRunningProcesses(handle), [])
    users = {p.pid: p.usedGpuMemory for p in (*drawing, *running)}
    # NVML counts pids as the host does: inside a container there may be no such process, or another.
    return tuple(
        GpuUser(pid, command(pid, "not of this container, or ended"), None if size is None else int(size))
        for pid, size in sorted(users.items())
    )


def command(pid: int, otherwise: str) -> str:
    """Short, and without arguments: those may hold secrets."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return otherwise


def _asked(nvml: Any, question: Any, default: Any) -> Any:
    """Not every GPU answers every question."""
    try:
        return question()
    except nvml.NVMLError:
        return default
