"""What was found on a machine, as plain values: `gather` fills it, `checks` judges it. Sizes are bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cluster.deployment.limits import ContainerLimits
from cluster.deployment.plan import Plan
from cluster.deployment.profiles.automatic import EngineChoice
from cluster.tools.sizing.files import Stored
from cluster.tools.sizing.memory import UTILIZATION
from cluster.tools.sizing.model import ModelShape
from config.settings import Settings
from worker.engines import flags
from worker.engines.vllm import memory_share


@dataclass(frozen=True, slots=True)
class Cpu:
    """``cores``: those that we may run on. ``flags`` as /proc/cpuinfo spells them."""

    machine: str
    name: str
    cores: int
    flags: frozenset[str]


@dataclass(frozen=True, slots=True)
class Disk:
    """``folder`` is the one looked at: that which was asked for, or the nearest above it that exists."""

    folder: Path
    total: int
    free: int
    writable: bool = True


@dataclass(frozen=True, slots=True)
class GpuUser:
    """``memory`` None where the driver does not tell, as in containers."""

    pid: int
    name: str
    memory: int | None


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """``mode``: default, exclusive or prohibited, as ``nvidia-smi -c`` sets it. ``visible``: to us. ``total`` and
    ``used`` are 0 where the driver does not tell."""

    index: int
    uuid: str
    name: str
    total: int
    used: int
    users: tuple[GpuUser, ...] = ()
    mode: str = "default"
    mig: bool = False
    visible: bool = True

    @property
    def free(self) -> int:
        return self.total - self.used


@dataclass(frozen=True, slots=True)
class NvmlFacts:
    """``error``: why NVML says nothing. ``devices``: there are /dev/nvidia files. ``failed``: what NVML says of those
    GPUs that do not answer, which are not among the others."""

    gpus: tuple[GpuFacts, ...] = ()
    driver: str | None = None
    error: str | None = None
    devices: bool = False
    visible: str | None = None
    failed: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Port:
    """``error``: why nobody else can listen there. ``owners``: who does, as far as it can be seen (of those that share
    a socket one); ``parents``: who started them."""

    host: str
    number: int
    error: str | None = None
    owners: tuple[tuple[int, str], ...] = ()
    parents: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """Packages by name, None for those that are not there. ``imported``: versions and the like that the engine's
    process told; ``error``: the last line of what it said instead. ``seconds`` it took; ``timed_out`` after those."""

    packages: dict[str, str | None]
    looked: bool = False
    imported: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    seconds: float = 0.0
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class State:
    """``version`` of the state file, None without one. ``error``: why it cannot be read. ``supervisor``: the pid of
    the one that runs on it. ``survivors``: processes of its cluster that live, by name."""

    folder: Path
    version: int | None = None
    current: int = 0
    error: str | None = None
    supervisor: int | None = None
    survivors: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Clock:
    """Seconds since the epoch. ``newest``: of the files that were written here; ``synchronized`` None if unknown."""

    now: float
    newest: float
    synchronized: bool | None = None


@dataclass(frozen=True, slots=True)
class Sized:
    """The model as `cluster.tools.sizing` reads it, or why it cannot."""

    model: ModelShape | None = None
    stored: Stored | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """Of the port: ``expires`` s since the epoch; ``error``: why it cannot be served."""

    names: tuple[str, ...] = ()
    expires: float = 0.0
    error: str | None = None


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """``settings`` and ``plan`` are None where there are none, for the reason in ``config_error`` or ``plan_error``.
    ``others``: states of other clusters of this user. ``orphans``: engine processes whose worker is gone."""

    python: tuple[int, int, int]
    executable: str
    cpu: Cpu
    memory: int
    available: int
    limits: ContainerLimits
    shm: Disk | None
    open_files: tuple[int, int]
    gpus: NvmlFacts
    engine: EngineFacts
    extras: dict[str, str | None]
    clock: Clock
    orphans: tuple[tuple[int, str], ...] = ()
    others: tuple[State, ...] = ()
    settings: Settings | None = None
    config_error: str | None = None
    config_file: Path | None = None
    plan: Plan | None = None
    plan_error: str | None = None
    state: State | None = None
    disk: Disk | None = None
    port: Port | None = None
    model: Sized | None = None
    certificate: CertificateFacts | None = None
    #: What each engine lacks here, in words; "" where it is installed.
    engines: Mapping[str, str] = field(default_factory=dict)
    #: Which one `--engine auto` means.
    automatic: EngineChoice | None = None
    #: Whether the kernel says whose a connection over loopback is.
    knows_peers: bool = True
    #: What the Ray says that is wanted (`cluster.tools.doctor.ray`), None where none is.
    ray: Mapping[str, Any] | None = None
    #: Why workers are not forked from a zygote, "" if they are.
    plain_starts: str = ""

    @property
    def memory_share(self) -> float:
        """Of a GPU's memory, what vLLM takes for a worker."""
        settings = self.plan.settings if self.plan else self.settings
        if settings is None:
            return UTILIZATION
        for given in flags.values(settings.engine_args, "--gpu-memory-utilization") or ():
            with contextlib.suppress(ValueError):
                if 0 < float(given) <= 1:
                    return float(given)
        if settings.instances_per_gpu == 1 and settings.max_gpu_memory is None:
            return UTILIZATION
        return memory_share(settings.instances_per_gpu, settings.max_gpu_memory)
