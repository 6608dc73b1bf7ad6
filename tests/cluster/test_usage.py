"""What processes use, of real ones."""

from __future__ import annotations

import os
import sys
import time

from cluster.usage import UsageSampler
from fakes import Processes, eventually
from worker.gpus import Reading

#: Busy for a moment, in a child of its own, then quiet with some files open.
_SCRIPT = """
import os, sys, time
files = [open(os.devnull) for _ in range(20)]
if os.fork() == 0:
    end = time.process_time() + 0.3
    while time.process_time() < end:
        pass
    os._exit(0)
os.wait()
print("done", flush=True)
time.sleep(60)
"""


def test_a_tree_is_one_and_its_counter_never_falls(processes: Processes) -> None:
    handle = processes.start(sys.executable, "-c", _SCRIPT)
    sampler, seen = UsageSampler(), []

    def done() -> bool:
        usage = sampler.sample({"instance_0": handle.pid}, {}, time.monotonic())["instance_0"]
        seen.append(usage)
        return "done" in processes.log().read_text()

    eventually(done)
    time.sleep(0.01)
    last = sampler.sample({"instance_0": handle.pid}, {}, time.monotonic())["instance_0"]
    counts = [usage.cpu_seconds for usage in seen] + [last.cpu_seconds]
    assert counts == sorted(counts), "a child that ended takes nothing with it"
    assert max(usage.processes for usage in seen) == 2
    assert last.processes == 1 and last.open_files >= 20 and last.memory_bytes > 1e6
    assert counts[-1] > 0.1
    assert any(usage.cpu_percent > 0 for usage in seen)


def test_single_processes_are_told_beside_trees(processes: Processes) -> None:
    handle = processes.shell("sleep 60")
    sampler = UsageSampler()
    found = sampler.sample({"instance_0": handle.pid}, {"supervisor": os.getpid(), "balancer": 2**22 - 1}, 1.0)
    assert set(found) == {"instance_0", "supervisor"}
    assert found["supervisor"].memory_bytes > found["instance_0"].memory_bytes
    assert set(sampler.latest["processes"]) == {"instance_0", "supervisor"}
    assert sampler.latest["processes"]["supervisor"]["open_files"] > 2
    assert sampler.latest["gpus"] == []


def test_a_tree_that_is_gone_is_nothing(processes: Processes) -> None:
    handle = processes.shell("exit 0")
    eventually(lambda: not handle.survivors())
    sampler = UsageSampler()
    gone = sampler.sample({"instance_0": handle.pid}, {}, 1.0)["instance_0"]
    assert (gone.cpu_seconds, gone.memory_bytes, gone.processes) == (0, 0, 0)
    assert sampler.latest["processes"] == {}


def test_gpus_are_read_with_the_rest() -> None:
    reading = Reading(0, "GPU-a", "H200", 8, 1, 0.5, 60.0, None)

    class Gpus:
        def read(self) -> list[Reading]:
            return [reading]

    sampler = UsageSampler(Gpus())
    sampler.sample({}, {}, 1.0)
    assert sampler.latest["gpus"] == [{
        "index": 0, "uuid": "GPU-a", "name": "H200", "memory_total": 8, "memory_used": 1, "utilisation": 0.5,
        "temperature": 60.0, "power": None,
    }]  # fmt: skip
