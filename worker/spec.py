"""`WorkerSpec`: everything needed to start one worker, fixed for the life of that process (OTP's child spec)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

#: A route of ours at each worker: how many requests its engine computes at a time, which it decides by the machine
#: unless it is told, and says nowhere else.
SEATS = "/clusterctl/seats"

#: vLLM's flag for a worker that can be put to sleep.
SLEEP_FLAG = "--enable-sleep-mode"


@dataclass(frozen=True, slots=True)
class Slot:
    """What a worker is pinned to. ``gpus`` are indices as NVML counts them; ``cores`` a list for each rank on a
    machine without GPUs, empty where workers are not bound to cores. ``share`` is how many workers share one GPU."""

    gpus: tuple[int, ...] = ()
    cores: tuple[tuple[int, ...], ...] = ()
    share: int = 1


@dataclass(frozen=True, slots=True)
class EngineLog:
    """How an engine's own log looks. ``set_up``: by the engine itself, as the JSON file ``config`` has it (Python's
    dictConfig) or else from ``level`` on (None: as it thinks best), with ``json`` as an object a line."""

    set_up: bool = True
    config: str | None = None
    level: str | None = None
    json: bool = False


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What all workers of a cluster have in common; an engine makes commands from it. ``dtype`` is what the model
    has to be served in, unless the user says otherwise, and ``gpu_memory`` the share of each GPU's memory for all
    workers on it; None leaves it to the engine. Of ``adapters`` (name: path)
    those in ``lazy`` are loaded on their first use; without ``dynamic_loading`` nothing is loaded at run time."""

    engine: str
    model: str
    served_names: tuple[str, ...]
    adapters: dict[str, str] = field(default_factory=dict)
    extra_args: tuple[str, ...] = ()
    tensor_parallel_size: int = 1
    max_lora_rank: int = 16
    max_loras: int = 4
    max_cpu_loras: int = 32
    cpu_kv_gib: float = 1.0
    gpu_memory: float | None = None
    dtype: str | None = None
    lazy: frozenset[str] = frozenset()
    dynamic_loading: bool = True
    descriptions: dict[str, str] = field(default_factory=dict)
    log: EngineLog = EngineLog()


LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class WorkerEndpoint:
    """Where a worker answers."""

    port: int
    host: str = LOOPBACK
    tls: bool = False

    @property
    def scheme(self) -> str:
        return "https" if self.tls else "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Fork:
    """Which zygote a worker may be forked from: one that has imported ``module`` of `worker.zygote.engines`, in the
    ``environment`` (sorted) that cannot be changed after that. ``unless_asked``: why none is used unless somebody asks
    for it, in words."""

    module: str
    environment: tuple[tuple[str, str], ...] = field(repr=False)
    unless_asked: str = ""


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One start of one worker. ``api_key`` is made anew at each start: no route of the worker answers without it
    (`worker.engines.key_guard`), and at an adoption it proves that what answers at ``endpoint`` is the one that was
    started. ``zygote``: where that listens which is to fork it."""

    id: str
    incarnation: int
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: Path
    log: Path
    run_file: Path
    endpoint: WorkerEndpoint
    api_key: str
    slot: Slot = Slot()
    zygote: Path | None = None
