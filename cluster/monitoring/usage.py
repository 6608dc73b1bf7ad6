"""What processes and GPUs use. Call it off the event loop: it asks the drivers of workers and GPUs."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from worker.drivers.base import WorkerStats
from worker.gpus import GpuReading


class Gpus(Protocol):
    """`worker.gpus.Monitor`."""

    def read(self) -> list[GpuReading]: ...


@dataclass(frozen=True, slots=True)
class Usage:
    """``cpu_seconds`` since it was first seen or started, of those processes that still run; ``cpu_percent`` of one
    core since the sample before; ``memory_bytes`` resident (pages that its processes share are counted in each)."""

    cpu_seconds: float
    cpu_percent: float
    memory_bytes: int
    open_files: int
    processes: int = 1

    def to_json(self) -> dict[str, Any]:
        return {key: round(value, 3) for key, value in asdict(self).items()}


class UsageSampler:
    """Remembers the CPU time of the sample before: a percentage needs two. ``latest``: by name, and of ``gpus``, what
    the last sample found."""

    def __init__(self, gpus: Gpus | None = None) -> None:
        self._gpus = gpus
        self._before: dict[Hashable, _Seen] = {}
        self.latest: dict[str, Any] = {"processes": {}, "gpus": []}

    def sample(self, used: Mapping[str, WorkerStats], now: float) -> dict[str, Usage]:
        """By name. ``now``: s, monotonic, as of ``used``."""
        before, self._before = self._before, {}
        result = {name: self._use(before.get(stats.key), stats, now) for name, stats in used.items()}
        self.latest = {
            "processes": {name: usage.to_json() for name, usage in result.items() if usage.processes},
            "gpus": [asdict(reading) for reading in self._gpus.read()] if self._gpus is not None else [],
        }
        return result

    def _use(self, before: _Seen | None, stats: WorkerStats, now: float) -> Usage:
        seen = _Seen(now, stats.cpu)
        # A process that ended takes its CPU time out of the sum: a counter must not fall with it.
        used = sum(cpu - (before.cpu.get(key, 0.0) if before else 0.0) for key, cpu in seen.cpu.items())
        seen.total = (before.total if before else 0.0) + max(0.0, used)
        self._before[stats.key] = seen
        percent = max(0.0, used) / (now - before.at) * 100.0 if before is not None and now > before.at else 0.0
        return Usage(seen.total, round(percent, 1), stats.memory_bytes, stats.open_files, len(stats.cpu))


class _Seen:
    def __init__(self, at: float, cpu: Mapping[Hashable, float]) -> None:
        self.at, self.cpu, self.total = at, cpu, 0.0
