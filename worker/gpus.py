"""The GPUs that NVML reports, less those that ``CUDA_VISIBLE_DEVICES`` hides from us."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from config import logs
from config.errors import UsageError

log = logging.getLogger(__name__)

#: Seconds after which a driver that could not be reached is asked anew.
_RETRY_S = 60.0


@dataclass(frozen=True, slots=True)
class Gpu:
    """``index`` counts as NVML and ``nvidia-smi`` do; memory in bytes, 0 where the driver does not tell."""

    index: int
    uuid: str
    name: str
    memory_total: int
    memory_used: int

    def __str__(self) -> str:
        size = f"{self.memory_total / 1024**3:.0f} GiB" if self.memory_total else "of unknown memory"
        return f"{self.index}: {self.name} {size}"


def detect(visible: str | None = None) -> list[Gpu]:
    """All GPUs, or those that ``visible`` (the value of ``CUDA_VISIBLE_DEVICES``: indices or UUIDs) names. NVML
    itself ignores that variable. Empty where there is no driver; a GPU that does not answer is left out.
    Raises UsageError where a part of a GPU is named: a worker is placed by the number of a whole one."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        if visible is not None and any(entry.strip().startswith("MIG-") for entry in visible.split(",")):
            raise UsageError(
                f"CUDA_VISIBLE_DEVICES={visible}: parts of GPUs (MIG) are not understood; "
                "name whole ones, by number or UUID"
            )
        known = _answering(_identify, range(pynvml.nvmlDeviceGetCount()))
        return _answering(_read, [gpu.index for gpu in visible_only(known, visible)])
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


def _memory_untold(error: Exception) -> bool:
    """Whether ``error`` (NVML's) is of a GPU that works, and whose memory is only not told: one that shares the main
    memory has none of its own, and of one in parts not everybody is told."""
    import pynvml

    return getattr(error, "value", None) in (pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_NO_PERMISSION)


def _answering(question: Callable[[int], Gpu], indices: Iterable[int]) -> list[Gpu]:
    """Without those that fail: the others can work."""
    import pynvml

    found = []
    for index in indices:
        try:
            found.append(question(index))
        except pynvml.NVMLError as error:
            data = logs.fields("gpu.left_out", gpu=index, error=str(error))
            log.warning("GPU %d is left out: NVML says %s", index, error, extra=data)
    return found


def _identify(index: int) -> Gpu:
    """Who it is; its memory is a question of its own, which not every GPU answers."""
    import pynvml

    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    return Gpu(index, text_of(pynvml.nvmlDeviceGetUUID(handle)), text_of(pynvml.nvmlDeviceGetName(handle)), 0, 0)


def _read(index: int) -> Gpu:
    import pynvml

    total, used = memory_of(pynvml, pynvml.nvmlDeviceGetHandleByIndex(index))
    return replace(_identify(index), memory_total=total, memory_used=used)


def memory_of(nvml: Any, handle: Any) -> tuple[int, int]:
    """Bytes in all and in use; 0 where they are not told. Raises NVMLError."""
    try:
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    except nvml.NVMLError as error:
        if _memory_untold(error):
            return 0, 0
        raise
    return int(memory.total), int(memory.used)


def text_of(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU now: memory in bytes, ``utilisation`` from 0 to 1, ``temperature`` in °C, ``power`` in W. None where the
    driver does not tell (a part of a GPU has no utilisation of its own)."""

    index: int
    uuid: str
    name: str
    memory_total: int | None
    memory_used: int | None
    utilisation: float | None
    temperature: float | None
    power: float | None


class Monitor:
    """Reads what the GPUs do, again and again, in one session with the driver. ``visible`` as for `detect`. Every call
    blocks."""

    def __init__(self, visible: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._visible, self._clock = visible, clock
        self._gpus: list[tuple[Gpu, Any]] | None = None
        self._not_before = float("-inf")

    def read(self) -> list[GpuReading]:
        """Empty where there is no driver; one that has failed is asked anew after `_RETRY_S`."""
        import pynvml

        if self._gpus is None:
            if self._clock() < self._not_before:
                return []
            self._gpus = self._open()
        if self._gpus is not None:
            try:
                return [_reading(gpu, handle) for gpu, handle in self._gpus]
            except pynvml.NVMLError:
                self.close()
        self._not_before = self._clock() + _RETRY_S
        return []

    def close(self) -> None:
        """Ends the session; the next `read` begins another."""
        import pynvml

        if self._gpus is not None:
            self._gpus = None
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()

    def _open(self) -> list[tuple[Gpu, Any]] | None:
        import pynvml

        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError:
            return None
        try:
            found = visible_only(_answering(_identify, range(pynvml.nvmlDeviceGetCount())), self._visible)
            return [(gpu, pynvml.nvmlDeviceGetHandleByIndex(gpu.index)) for gpu in found]
        except pynvml.NVMLError:
            pynvml.nvmlShutdown()
            return None


def _reading(gpu: Gpu, handle: Any) -> GpuReading:
    """Raises NVMLError when the session is over; what one GPU does not tell is None."""
    import pynvml

    def ask(question: Callable[[], Any]) -> Any:
        try:
            return question()
        except pynvml.NVMLError as error:
            if error.value in (pynvml.NVML_ERROR_UNINITIALIZED, pynvml.NVML_ERROR_DRIVER_NOT_LOADED):
                raise
            return None

    memory = ask(lambda: pynvml.nvmlDeviceGetMemoryInfo(handle))
    rates = ask(lambda: pynvml.nvmlDeviceGetUtilizationRates(handle))
    heat = ask(lambda: pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))
    milliwatts = ask(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    return GpuReading(
        index=gpu.index, uuid=gpu.uuid, name=gpu.name,
        memory_total=None if memory is None else int(memory.total),
        memory_used=None if memory is None else int(memory.used),
        utilisation=None if rates is None else rates.gpu / 100,
        temperature=None if heat is None else float(heat),
        power=None if milliwatts is None else milliwatts / 1000,
    )
