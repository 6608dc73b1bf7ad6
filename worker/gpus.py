"""The GPUs that NVML reports, less those that ``CUDA_VISIBLE_DEVICES`` hides from us."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gpu:
    """``index`` counts as NVML and ``nvidia-smi`` do; memory in bytes."""

    index: int
    uuid: str
    name: str
    memory_total: int
    memory_used: int

    def __str__(self) -> str:
        return f"{self.index}: {self.name} {self.memory_total / 1024**3:.0f} GiB"


def detect(visible: str | None = None) -> list[Gpu]:
    """All GPUs, or those that ``visible`` (the value of ``CUDA_VISIBLE_DEVICES``: indices or UUIDs) names. NVML
    itself ignores that variable. Empty where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        return visible_only([_read(i) for i in range(pynvml.nvmlDeviceGetCount())], visible)
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def visible_only(gpus: list[Gpu], visible: str | None) -> list[Gpu]:
    """CUDA's rule: the list ends at the first entry that names no GPU; a UUID may be given by its beginning."""
    if visible is None:
        return gpus
    chosen: list[Gpu] = []
    for entry in (e.strip() for e in visible.split(",")):
        match = [g for g in gpus if str(g.index) == entry or (entry[:4] == "GPU-" and g.uuid.startswith(entry))]
        if len(match) != 1 or match[0] in chosen:
            break
        chosen.append(match[0])
    return chosen


def _read(index: int) -> Gpu:
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    return Gpu(
        index=index,
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        memory_total=int(memory.total),
        memory_used=int(memory.used),
    )


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
