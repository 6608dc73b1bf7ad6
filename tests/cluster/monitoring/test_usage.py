"""What processes use, of real ones."""

from __future__ import annotations

import os
import sys
import time

import pytest

from cluster.monitoring.usage import Usage, UsageSampler
from fakes import Processes, eventually
from worker.drivers import proc
from worker.drivers.base import WorkerStats
from worker.drivers.process import Process, usage, usage_of
from worker.gpus import GpuReading

#: Busy for a moment, in a child of its own, then quiet with some files open.
_SCRIPT = """
import os, sys, time
files = [open(os.devnull) for _ in range(20)]
if os.fork() == 0:
    end = time.process_time() + 0.15
    while time.process_time() < end:
        pass
    os._exit(0)
os.wait()
print("done", flush=True)
time.sleep(60)
"""


def _session(process: Process) -> WorkerStats:
    return usage(process.process, proc.sessions([process.pid])[process.pid])


def test_a_tree_is_one_and_its_counter_never_falls(processes: Processes) -> None:
    handle = processes.start(sys.executable, "-c", _SCRIPT)
    sampler, seen = UsageSampler(), []

    def done() -> bool:
        usage = sampler.sample({"instance_0": _session(handle)}, time.monotonic())["instance_0"]
        seen.append(usage)
        return "done" in processes.log().read_text()

    eventually(done)
    time.sleep(0.01)
    last = sampler.sample({"instance_0": _session(handle)}, time.monotonic())["instance_0"]
    counts = [usage.cpu_seconds for usage in seen] + [last.cpu_seconds]
    assert counts == sorted(counts), "a child that ended takes nothing with it"
    assert max(usage.processes for usage in seen) == 2
    assert last.processes == 1 and last.open_files >= 20 and last.memory_bytes > 1e6
    assert counts[-1] > 0.1
    assert any(usage.cpu_percent > 0 for usage in seen)


def test_single_processes_are_told_beside_trees(processes: Processes) -> None:
    handle = processes.shell("sleep 60")
    sampler = UsageSampler()
    found = sampler.sample({
        "instance_0": _session(handle), **usage_of({"supervisor": os.getpid(), "balancer": 2**22 - 1}),
    }, 1.0)  # fmt: skip
    assert set(found) == {"instance_0", "supervisor"}
    assert found["supervisor"].memory_bytes > found["instance_0"].memory_bytes
    assert set(sampler.latest["processes"]) == {"instance_0", "supervisor"}
    assert sampler.latest["processes"]["supervisor"]["open_files"] > 2
    assert sampler.latest["gpus"] == []


def test_a_tree_that_is_gone_is_nothing(processes: Processes) -> None:
    handle = processes.shell("exit 0")
    eventually(lambda: not handle.survivors())
    sampler = UsageSampler()
    gone = sampler.sample({"instance_0": _session(handle)}, 1.0)["instance_0"]
    assert (gone.cpu_seconds, gone.memory_bytes, gone.processes) == (0, 0, 0)
    assert sampler.latest["processes"] == {}


@pytest.mark.parametrize("tree", [True, False])
def test_who_gets_the_number_of_another_does_not_get_its_time(monkeypatch: pytest.MonkeyPatch, tree: bool) -> None:
    sampler = UsageSampler()

    def sample(start: int, cpu: float, now: float) -> Usage:
        stat = proc.Stat(pid=2**22 - 1, state="S", parent=1, session=2**22 - 1, cpu=cpu, start_ticks=start, rss=4096)
        monkeypatch.setattr(proc, "stat", lambda pid: stat)
        monkeypatch.setattr(proc, "sessions", lambda pids: {pid: [stat] for pid in pids})
        return sampler.sample({"x": _session(Process(stat.identity))} if tree else usage_of({"x": stat.pid}), now)["x"]

    assert [sample(7, 50.0, 1.0).cpu_seconds, sample(7, 51.0, 2.0).cpu_percent] == [50.0, 100.0]
    other = sample(8, 0.5, 3.0)
    assert (other.cpu_seconds, other.cpu_percent) == (0.5, 0.0)


def test_gpus_are_read_with_the_rest() -> None:
    reading = GpuReading(0, "GPU-a", "H200", 8, 1, 0.5, 60.0, None)

    class Gpus:
        def read(self) -> list[GpuReading]:
            return [reading]

    sampler = UsageSampler(Gpus())
    sampler.sample({}, 1.0)
    assert sampler.latest["gpus"] == [{
        "index": 0, "uuid": "GPU-a", "name": "H200", "memory_total": 8, "memory_used": 1, "utilisation": 0.5,
        "temperature": 60.0, "power": None,
    }]  # fmt: skip
