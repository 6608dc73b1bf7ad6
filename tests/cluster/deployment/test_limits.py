"""What control groups of both versions leave of a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.deployment import limits
from cluster.deployment.limits import ContainerLimits
from doctorfacts import GIB


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max\n", "a/memory.max": "1073741824\n", "a/b/cpu.max": "150000 100000\n"},
         ContainerLimits(GIB, 1.5)),
        ("0::/\n", {"memory.max": "max\n", "cpu.max": "max 100000\n"}, ContainerLimits()),
        ("0::/of/the/host\n", {"memory.max": "2147483648\n"}, ContainerLimits(2 * GIB)),
        ("4:memory:/x\n1:cpu,cpuacct:/x\n", {
            "memory/x/memory.limit_in_bytes": "9223372036854771712\n", "memory/memory.limit_in_bytes": "1073741824\n",
            "cpu/x/cpu.cfs_quota_us": "50000\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, ContainerLimits(GIB, 0.5)),
        ("4:memory:/\n1:cpu:/\n0::/\n", {"memory/memory.limit_in_bytes": "9223372036854771712\n",
                                         "cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n",
                                         "unified/cgroup.procs": ""}, ContainerLimits()),
        ("nonsense\n", {}, ContainerLimits()),
    ],
)  # fmt: skip
def test_control_groups_of_both_versions(
    tmp_path: Path, membership: str, files: dict[str, str], expected: ContainerLimits
) -> None:
    root = _tree(tmp_path / "cgroup", {"marker": "", **files})
    (tmp_path / "self").write_text(membership)
    assert limits.read(tmp_path / "self", root) == expected


def test_no_control_groups_no_limits(tmp_path: Path) -> None:
    assert limits.read(tmp_path / "none", tmp_path) == ContainerLimits()
    assert limits.memory() > 0
