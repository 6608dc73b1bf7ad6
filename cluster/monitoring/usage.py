"""What processes and GPUs use. Call it off the event loop: it reads every process, and asks the driver."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from worker import proc
from worker.gpus import Reading
from worker.spec import ProcessId


class Gpus(Protocol):
    """`worker.gpus.Monitor`."""

    def read(self) -> list[Reading]: ...


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
        self._before: dict[ProcessId, _Seen] = {}
        self.latest: dict[str, Any] = {"processes": {}, "gpus": []}

    def sample(self, sessions: Mapping[str, ProcessId], single: Mapping[str, int], now: float) -> dict[str, Usage]:
        """Whole process trees (``sessions``, by their leaders) and single processes by name. ``now``: s,
        monotonic."""
        found = {name: stat for name, pid in single.items() if (stat := proc.stat(pid)) is not None}
        trees = proc.sessions(leader.pid for leader in sessions.values())
        before, self._before = self._before, {}
        result = {}
        for name, (process, members) in {
            **{name: (leader, trees[leader.pid]) for name, leader in sessions.items()},
            **{name: (stat.identity, [stat]) for name, stat in found.items() if stat.alive},
        }.items():
            result[name] = self._use(before.get(process), process, members, now)
        self.latest = {
            "processes": {name: usage.to_json() for name, usage in result.items() if usage.processes},
            "gpus": [asdict(reading) for reading in self._gpus.read()] if self._gpus is not None else [],
        }
        return result

    def _use(self, before: _Seen | None, process: ProcessId, members: Sequence[proc.Stat], now: float) -> Usage:
        seen = _Seen(now, {p.identity: p.cpu for p in members})
        # A process that ended takes its CPU time out of the sum: a counter must not fall with it.
        used = sum(cpu - (before.cpu.get(key, 0.0) if before else 0.0) for key, cpu in seen.cpu.items())
        seen.total = (before.total if before else 0.0) + max(0.0, used)
        self._before[process] = seen
        percent = max(0.0, used) / (now - before.at) * 100.0 if before is not None and now > before.at else 0.0
        files = sum(_open_files(p.pid) for p in members)
        return Usage(seen.total, round(percent, 1), sum(p.rss for p in members), files, len(members))


class _Seen:
    def __init__(self, at: float, cpu: dict[ProcessId, float]) -> None:
        self.at, self.cpu, self.total = at, cpu, 0.0


def _open_files(pid: int) -> int:
    """0 of a process that is gone, or not ours to look at."""
    folder = Path(f"/proc/{pid}/fd")
    try:
        # Since Linux 6.2 the size of the folder is their number; a list of ten thousand connections takes its time.
        return folder.stat().st_size or len(os.listdir(folder))  # noqa: PTH208
    except OSError:
        return 0
