"""Processor, memory, disks, limits and clock, each with its remedy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.deployment.limits import ContainerLimits
from cluster.tools.doctor import machine
from cluster.tools.doctor.facts import Clock, Cpu, Disk, MachineFacts
from cluster.tools.doctor.finding import Finding
from doctorfacts import GIB, facts, plan


def _of(check: str, found: MachineFacts) -> Finding:
    matching = [finding for finding in machine.findings(found) if finding.check == check]
    assert len(matching) == 1
    return matching[0]


def test_nothing_is_wrong_where_nothing_is_wrong() -> None:
    assert {finding.level for finding in machine.findings(facts())} == {"ok"}


def _cpu(*flags: str, machine: str = "x86_64") -> dict[str, Any]:
    return {"cpu": Cpu(machine, "Xeon", 4, frozenset(flags))}


def _shm(free: float, **more: Any) -> dict[str, Any]:
    return {"shm": Disk(Path("/dev/shm"), 64 * GIB, int(free * GIB), **more)}


def _disk(free: float, **more: Any) -> dict[str, Any]:
    return {"disk": Disk(Path("/var"), 64 * GIB, int(free * GIB), **more)}


@pytest.mark.parametrize(
    ("check", "changes", "level", "text", "remedy"),
    [
        ("python", {"python": (3, 10, 2)}, "problem", "Python 3.10.2; 3.11 is needed", "-m venv .venv"),
        ("cpu", _cpu("avx2", "avx512f", "avx512_bf16", "amx_tile"), "ok", "AVX-512 with bfloat16 and AMX", ""),
        ("cpu", _cpu("avx2", "avx512f"), "ok", "no bfloat16 instructions", ""),
        ("cpu", _cpu("avx2"), "warning", "AVX2 but no AVX-512", "faster"),
        ("cpu", _cpu("sse4_2"), "problem", "it has no AVX2", "pass the host's CPU through"),
        ("cpu", _cpu("bf16", machine="aarch64"), "ok", "ARM with bfloat16", ""),
        ("cpu", _cpu("asimd", machine="aarch64"), "warning", "ARM without bfloat16", "--dtype float32"),
        ("cpu", _cpu(machine="riscv64"), "warning", "riscv64 is not tried", "--engine sim"),
        ("memory", {"available": 2 * GIB}, "warning", "what up would start takes about 3.5 GiB", "fewer --instances"),
        ("memory", {"memory": 3 * GIB}, "problem", "1 workers of about 3.5 GiB need 3.5 GiB", "clusterctl plan --cpu"),
        ("container", {"limits": ContainerLimits(8 * GIB)}, "warning",
         "allows 8.0 GiB of 24.0 GiB memory", "--max-instances 2"),
        ("container", {"limits": ContainerLimits(None, 1.5)}, "warning",
         "the time of 1.5 of 4 cores", "raise the container's"),
        ("container", {"limits": ContainerLimits(64 * GIB, 8)}, "ok", "no limit", ""),
        ("shared memory", {"shm": None}, "problem", "no /dev/shm", "mount -t tmpfs"),
        ("shared memory", _shm(0.06), "warning", "61.4 MiB of 64.0 GiB free: little", "--shm-size 8g"),
        ("shared memory", _shm(9, writable=False), "problem", "cannot be written", "chmod 1777 /dev/shm"),
        ("open files", {"open_files": (1024, 4096)}, "warning", "10000 clients", "ulimit -Hn 20512"),
        ("open files", {"open_files": (1024, 65536)}, "ok", "65536 at most (1024 now: the balancer raises it)", ""),
        ("open files", {"open_files": (-1, -1)}, "ok", "no limit", ""),
        ("disk", _disk(90, writable=False), "problem", "/var cannot be written", "another --state-dir"),
        ("disk", _disk(0.05), "problem", "changes could not be saved", "make room"),
        ("disk", _disk(3), "warning", "logs and copies of adapters go there", "make room soon"),
        ("clock", {"clock": Clock(1000.0, 8200.0, True)}, "problem", "2.0 h behind", "timedatectl set-ntp true"),
        ("clock", {"clock": Clock(1000.0, 1.0, False)}, "warning", "no time service", "chrony"),
        ("clock", {"clock": Clock(1000.0, 1100.0, None)}, "ok", "plausible", ""),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_a_remedy(
    check: str, changes: dict[str, Any], level: str, text: str, remedy: str
) -> None:
    found = _of(check, facts(**changes))
    assert found.level == level and text in found.text and remedy in found.remedy
    assert bool(found.remedy) == (level != "ok")


def test_a_worker_on_a_gpu_asks_nothing_of_the_processor() -> None:
    on_gpu = facts(plan=plan(gpus=1, model="org/model"), available=GIB, **_cpu("sse4_2"))
    assert _of("cpu", on_gpu).level == "ok" and _of("memory", on_gpu).level == "ok"


def test_without_a_plan_the_processor_counts_where_there_is_no_gpu() -> None:
    assert _of("cpu", replace(facts(**_cpu("sse4_2")), plan=None)).level == "problem"


def test_a_cluster_that_runs_already_has_its_memory() -> None:
    found = facts(available=GIB)
    assert found.state is not None
    assert _of("memory", replace(found, state=replace(found.state, supervisor=5))).level == "ok"


def test_simulated_workers_need_no_shared_memory_and_several_gpus_do() -> None:
    assert _of("shared memory", facts(plan=plan(engine="sim"), **_shm(0.06))).level == "ok"
    wide = facts(plan=plan(gpus=2, model="org/model", tensor_parallel_size=2), **_shm(0.06))
    assert _of("shared memory", wide).level == "problem"


def test_fewer_instances_are_proposed_where_some_fit() -> None:
    found = _of("memory", facts(plan=plan(instances=4, gib=64), memory=12 * GIB, available=12 * GIB))
    assert found.level == "problem" and found.remedy == "--instances 3"
