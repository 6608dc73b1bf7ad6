"""What a container may use of its machine: control groups, version 1 and 2."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import psutil

#: Version 1 says "no limit" with a number near the greatest.
_UNLIMITED = 1 << 60


@dataclass(frozen=True, slots=True)
class ContainerLimits:
    """``memory`` bytes, ``cpus`` as many CPUs' time; None where nothing limits."""

    memory: int | None = None
    cpus: float | None = None


def memory() -> int:
    """Bytes of main memory that may be used: the machine's, or the container's if that is less."""
    total = int(psutil.virtual_memory().total)
    return min(total, read().memory or total)


def read(proc: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")) -> ContainerLimits:
    """The tightest limits of our control group and those above it; never raises."""
    sizes: list[int] = []
    quotas: list[float] = []
    for controllers, path in _memberships(proc):
        if not controllers:
            for folder in _up(root / "unified" if (root / "unified").is_dir() else root, path):
                sizes += _numbers(folder / "memory.max")[:1]
                quotas += _ratio(_numbers(folder / "cpu.max"))
        if "memory" in controllers:
            for folder in _up(root / "memory", path):
                sizes += _numbers(folder / "memory.limit_in_bytes")[:1]
        if "cpu" in controllers:
            for folder in _up(root / "cpu", path):
                quota, period = _numbers(folder / "cpu.cfs_quota_us"), _numbers(folder / "cpu.cfs_period_us")
                quotas += _ratio([*quota, *period])
    sizes = [size for size in sizes if 0 < size < _UNLIMITED]
    return ContainerLimits(min(sizes, default=None), min(quotas, default=None))


def _memberships(proc: Path) -> list[tuple[list[str], str]]:
    """Controllers (none of them: version 2) and path of each group that we are in."""
    try:
        lines = proc.read_text().splitlines()
    except OSError:
        return []
    fields = (line.split(":", 2) for line in lines)
    return [([name for name in f[1].split(",") if name], f[2]) for f in fields if len(f) == 3]


def _up(root: Path, path: str) -> list[Path]:
    """The group's folder and those above it. In a container the path may be the host's: then only its root is here."""
    folder = root / path.lstrip("/")
    return [f for f in (folder, *folder.parents) if f == root or root in f.parents]


def _numbers(file: Path) -> list[int]:
    """The numbers of a file; ``max`` is none."""
    try:
        return [int(word) for word in file.read_text().split() if word.lstrip("-").isdigit()]
    except OSError:
        return []


def _ratio(numbers: list[int]) -> list[float]:
    if len(numbers) != 2 or numbers[0] <= 0 or numbers[1] <= 0:
        return []
    return [numbers[0] / numbers[1]]
