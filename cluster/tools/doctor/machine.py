"""Judges the machine: processor, memory, disks, limits, clock. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from cluster.deployment.plan import Plan
from cluster.tools.doctor.facts import MachineFacts
from cluster.tools.doctor.finding import GIB, Finding, gib, listed, ok, problem, warning

PYTHON = (3, 11)

#: Connections of a client and of a worker for each request, and what a process needs beside them.
_FILES_EACH, _FILES_BESIDE = 2, 512

_SHM_LEAST = GIB
_DISK_FULL, _DISK_LOW = GIB // 10, 5 * GIB

#: Seconds a file may be newer than now: copies between machines.
_CLOCK_SLACK = 300.0


def findings(facts: MachineFacts) -> Iterator[Finding]:
    yield python(facts)
    yield cpu(facts)
    yield from memory(facts)
    yield shared_memory(facts)
    yield open_files(facts)
    if facts.disk is not None:
        yield disk(facts)
    yield clock(facts)


def python(facts: MachineFacts) -> Finding:
    version = ".".join(map(str, facts.python))
    if facts.python < PYTHON:
        return problem("python", f"Python {version}; {'.'.join(map(str, PYTHON))} is needed",
                       "make a virtual environment with a newer one: python3.11 -m venv .venv")  # fmt: skip
    return ok("python", f"Python {version}, {facts.executable}")


def cpu(facts: MachineFacts) -> Finding:
    """vLLM's CPU build has kernels for AVX2 and for AVX-512; AMX and bfloat16 instructions make it fast."""
    found = facts.cpu
    head = f"{found.name}, {found.cores} core{'s' * (found.cores != 1)} for us"
    if not _on_cpu(facts):
        return ok("cpu", head)
    if found.machine in ("aarch64", "arm64"):
        if "bf16" in found.flags:
            return ok("cpu", f"{head}; ARM with bfloat16")
        return warning("cpu", f"{head}; ARM without bfloat16 instructions: slow",
                       "serve models in float32 (-- --dtype float32), or take a processor with them")  # fmt: skip
    if found.machine not in ("x86_64", "AMD64"):
        return warning("cpu", f"{head}; {found.machine} is not tried", "--engine sim runs anywhere")
    if "avx2" not in found.flags:
        return problem("cpu", f"{head}; it has no AVX2, which vLLM's CPU build needs",
                       "a machine with AVX2 (in a virtual machine: pass the host's CPU through), or a GPU")  # fmt: skip
    if "avx512f" not in found.flags:
        return warning("cpu", f"{head}; AVX2 but no AVX-512: vLLM takes its slower kernels",
                       "nothing to be done here; a processor with AVX-512 is faster")  # fmt: skip
    extras = [name for flag, name in (("avx512_bf16", "bfloat16"), ("amx_tile", "AMX")) if flag in found.flags]
    return ok("cpu", f"{head}; AVX2 and AVX-512{' with ' + listed(extras) if extras else ', no bfloat16 instructions'}")


def memory(facts: MachineFacts) -> Iterator[Finding]:
    usable = min(facts.memory, facts.limits.memory or facts.memory)
    text = f"{gib(facts.memory)}, {gib(facts.available)} available"
    needed = _memory_needed(facts)
    if facts.plan is not None and needed > usable:
        each = facts.plan.placement.memory_each
        most, workers = int(usable * 0.9) // each - facts.plan.placement.spares, _workers(facts.plan)
        yield problem(
            "memory", f"{text}; {workers} workers of about {gib(each)} need {gib(needed)}",
            f"--instances {most}" if most > 0 else "a smaller model, or more memory: see clusterctl plan --cpu",
        )  # fmt: skip
    elif needed > facts.available and not _running(facts):
        yield warning("memory", f"{text}; what up would start takes about {gib(needed)}",
                      "end what uses the memory (ps aux --sort -rss | head), or start fewer --instances")  # fmt: skip
    else:
        yield ok("memory", text)
    yield from limits(facts)


def limits(facts: MachineFacts) -> Iterator[Finding]:
    """A worker is placed by what the machine has: a container's limits are not seen by everything that counts cores."""
    found = facts.limits
    tight: list[str] = []
    if found.memory is not None and found.memory < facts.memory:
        tight.append(f"{gib(found.memory)} of {gib(facts.memory)} memory")
    if found.cpus is not None and found.cpus < facts.cpu.cores:
        tight.append(f"the time of {found.cpus:g} of {facts.cpu.cores} cores")
    if not tight:
        yield ok("container", "no limit of a control group below what the machine has")
        return
    text = f"the control group allows {listed(tight)}; up counts with what the machine has"
    least = facts.plan.placement.memory_each if facts.plan and not facts.plan.placement.on_gpu else 0
    most = int(found.memory * 0.9) // least if found.memory is not None and least else 0
    cap = f"--max-instances {most}" if most else "--max-instances"
    yield warning("container", text, f"start up with {cap}, or raise the container's limits")


def shared_memory(facts: MachineFacts) -> Finding:
    """vLLM's processes of one worker hand each other tensors there."""
    if facts.shm is None:
        return problem("shared memory", "there is no /dev/shm", "mount it: mount -t tmpfs shm /dev/shm")
    text = f"/dev/shm: {gib(facts.shm.free)} of {gib(facts.shm.total)} free"
    more = "in a container: --ipc host or --shm-size 8g (docker run), shm_size: 8g (compose)"
    if not facts.shm.writable:
        return problem("shared memory", "/dev/shm cannot be written", "chmod 1777 /dev/shm")
    if facts.shm.free >= _SHM_LEAST or (facts.plan is not None and not facts.plan.engine.computes):
        return ok("shared memory", text)
    if facts.plan is not None and facts.plan.placement.ranks > 1:
        return problem("shared memory", f"{text}: too little for workers that span several GPUs", more)
    return warning("shared memory", f"{text}: little", more)


def open_files(facts: MachineFacts) -> Finding:
    """A balancer raises its soft limit to the hard one by itself."""
    soft, hard = facts.open_files
    clients = facts.settings.max_connections if facts.settings else 10_000
    needed = clients * _FILES_EACH + _FILES_BESIDE
    if hard < 0:
        return ok("open files", "no limit")
    if hard < needed:
        return warning(
            "open files", f"{hard} at most, and {clients} clients of a balancer process may need {needed}",
            f"ulimit -Hn {needed} (systemd: LimitNOFILE=, docker: --ulimit nofile=), or a lower "
            "CLUSTERCTL_MAX_CONNECTIONS",
        )  # fmt: skip
    return ok("open files", f"{hard} at most{'' if soft == hard else f' ({soft} now: the balancer raises it)'}")


def disk(facts: MachineFacts) -> Finding:
    assert facts.disk is not None
    found = facts.disk
    text = f"{found.folder}: {gib(found.free)} of {gib(found.total)} free"
    if not found.writable:
        return problem("disk", f"{found.folder} cannot be written", "another --state-dir, or other rights on that one")
    if found.free < _DISK_FULL:
        return problem("disk", f"{text}: changes could not be saved", "make room, or choose another --state-dir")
    if found.free < _DISK_LOW:
        return warning("disk", f"{text}; logs and copies of adapters go there", "make room soon")
    return ok("disk", text)


def clock(facts: MachineFacts) -> Finding:
    found = facts.clock
    if found.newest > found.now + _CLOCK_SLACK:
        return problem("clock", f"it is {(found.newest - found.now) / 3600:.1f} h behind this program's own files",
                       "set it: timedatectl set-ntp true, or chronyd -q")  # fmt: skip
    if found.synchronized is False:
        return warning("clock", "the kernel says that no time service keeps it",
                       "on the machine itself: timedatectl set-ntp true, or run chrony")  # fmt: skip
    return ok("clock", "kept by a time service" if found.synchronized else "plausible")


def _on_cpu(facts: MachineFacts) -> bool:
    """Whether an engine computes on the processor."""
    if facts.plan is None:
        return not facts.gpus.gpus
    return not facts.plan.placement.on_gpu and facts.plan.engine.computes


def _memory_needed(facts: MachineFacts) -> int:
    plan = facts.plan
    return plan.placement.memory_each * _workers(plan) if plan and not plan.placement.on_gpu else 0


def _workers(plan: Plan) -> int:
    return plan.placement.planned + plan.placement.spares


def _running(facts: MachineFacts) -> bool:
    return facts.state is not None and bool(facts.state.supervisor or facts.state.survivors)
