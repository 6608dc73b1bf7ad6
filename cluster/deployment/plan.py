"""From settings and machine to what is going to run. Everything that can be wrong is found here, before anything
starts."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import psutil

from cluster.deployment import backend_urls, cors_flags
from cluster.fleet.groups import DEFAULT
from cluster.fleet.placement import Machine, Placement, choose_gpus
from config import bounded, lora_config, tls
from config.disk.absolute import looks_like_path
from config.errors import UsageError
from config.lora_config import LoraFile
from config.model_names import NAME
from config.models import ModelDefinition
from config.paths import StateDir
from config.settings import Settings, environment, visible_gpus
from worker import gpus
from worker.demo import MODEL_NAME, model_path
from worker.demo import adapters as demo_adapters
from worker.drivers.base import LOCAL
from worker.engines import base, flags
from worker.engines.base import Engine
from worker.spec import SLEEP_FLAG, EngineLog, EngineSpec

#: Ranks that vLLM accepts for ``--max-lora-rank`` (vllm.config.lora.MaxLoRARanks, 0.32).
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

#: What `--model` may be a path to, if it is one.
_MODEL_FILES = ("config.json", "params.json")

#: What an extra brings.
_TRACING = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
_GRPC = ("grpc", "grpc_health", "grpc_reflection")


@dataclass(frozen=True, slots=True)
class Plan:
    """The checked set-up of one group of workers. ``most``: no more workers than this. ``adapter_cap``: as many
    adapters a worker holds at a time. ``foreign_adapters`` came with the engine's own flags. ``definition``: of the
    model, where it is one of several; its ``settings`` are the cluster's with what that says. ``broken``: why no worker
    of it can be started, where that was found when it was too late to refuse it. ``leaving``: the model was unloaded,
    and its last workers are on their way out."""

    settings: Settings
    engine: Engine
    spec: EngineSpec
    placement: Placement
    least: int
    most: int
    adapter_cap: int = 32
    foreign_adapters: frozenset[str] = frozenset()
    dynamic_loading: bool = True
    group: str = DEFAULT
    driver: str = LOCAL
    definition: ModelDefinition | None = None
    broken: str = ""
    leaving: bool = False

    @property
    def can_sleep(self) -> bool:
        """Whether its workers, once nobody asks for the model, are put to sleep in place of ended."""
        wanted = self.definition is not None and flags.has(self.spec.extra_args, SLEEP_FLAG)
        return wanted and self.engine.capabilities.sleep

    @property
    def no_lora(self) -> str:
        """Why its workers take no adapters; empty: they do."""
        if not self.engine.capabilities.lora:
            return f"engine {self.engine.name} takes no adapters"
        given = flags.has(self.spec.extra_args, "--no-enable-lora")
        return "the workers run with --no-enable-lora and take no adapters" if given else ""


def look_at_machine(engine: Engine) -> Machine:
    """What this machine has for workers of ``engine``. Raises UsageError for GPUs that are named as no GPU is."""
    found = gpus.detect(visible_gpus()) if engine.finds_gpus else []
    return Machine(
        gpus=tuple((g.index, str(g)) for g in found),
        cores=tuple(sorted(os.sched_getaffinity(0))),
        memory=psutil.virtual_memory().total,
    )


def make(settings: Settings, machine: Machine | None = None) -> Plan:
    """Raises UsageError with one line for everything that would not work."""
    engine = base.load(settings.engine)
    if settings.backend:
        backend_urls.parse(settings.backend, settings.backend_key_file, 0)
    if settings.own_instances:
        engine.check()
    if settings.otlp_endpoint and not _can_import(*_TRACING):
        raise UsageError("--otlp-endpoint needs OpenTelemetry, which is not installed: pip install 'clusterctl[otel]'")
    if settings.limits_store and find_spec("redis") is None:
        raise UsageError("--limits-store needs Redis' client, which is not installed: pip install 'clusterctl[redis]'")
    if settings.grpc_port is not None and not _can_import(*_GRPC):
        raise UsageError("--grpc-port needs gRPC, which is not installed: pip install 'clusterctl[grpc]'")
    cors_flags.read(settings.engine_args, settings.cors_origin)
    _check_tls(settings)
    made = placed(settings, engine, engine_spec(settings), settings.own_instances, machine or look_at_machine(engine))
    return replace(made, placement=replace(made.placement, crowd=crowd(settings)))


def placed(settings: Settings, engine: Engine, spec: EngineSpec, count: int, machine: Machine) -> Plan:
    """For ``count`` workers by ``spec`` on ``machine``. Raises UsageError where they do not fit."""
    ranks = spec.tensor_parallel_size * flags.integer(spec.extra_args, "--pipeline-parallel-size", 1)
    on_gpu = engine.uses_gpu and bool(machine.gpus)
    if settings.gpus is not None and not on_gpu:
        raise UsageError(f"--gpus: engine {engine.name} can use no GPU here")
    chosen = choose_gpus(machine.gpus, settings.gpus) if on_gpu else ()
    placement = Placement(
        machine=Machine(chosen, machine.cores[: settings.max_cpu_threads], machine.memory), ranks=ranks,
        per_gpu=settings.instances_per_gpu, on_gpu=on_gpu, memory_each=engine.memory_estimate(spec), planned=count,
        spares=settings.spares if count else 0,
    )
    placement.require(count, placement.spares)
    if settings.max_instances is not None:
        placement.require(settings.max_instances)
    most = settings.max_instances or max(placement.capacity, count)
    least = min(settings.minimum.usual, count)
    foreign = frozenset(text.partition("=")[0] for text in flags.values(spec.extra_args, "--lora-modules") or ())
    return Plan(settings, engine, spec, placement, least, most, spec.max_cpu_loras, foreign, spec.dynamic_loading)


def crowd(settings: Settings) -> int:
    """Workers that may be up at the same time, of all models; 0 where there is one."""
    if not settings.models:
        return 0
    beside = settings.max_concurrent_models
    if beside is not None and settings.own_instances:
        beside = max(0, beside - 1)
    counts = sorted((model.instances + model.spares for model in settings.models.values()), reverse=True)
    own = settings.own_instances + (settings.spares if settings.own_instances else 0)
    return own + sum(counts[:beside])


def _check_tls(settings: Settings) -> None:
    """Not where a cluster that runs, or was killed, has kept what it served: that one has to come up again, whatever is
    in the files by now."""
    files = settings.tls()
    if files is not None and not tls.is_kept(StateDir(settings.state_directory()).tls, files):
        tls.check_dates(files, tls.load(files))


def _can_import(*modules: str) -> bool:
    """Whether an extra is installed; without importing it."""
    try:
        return all(map(find_spec, modules))
    except ModuleNotFoundError:
        return False


def engine_spec(settings: Settings, what: str = "--model") -> EngineSpec:
    """What all workers of a group have in common; ``what`` the model is called where it was given. Raises UsageError
    for models and adapters that are none."""
    args, file = settings.engine_args, _lora_file(settings)
    names: tuple[str, ...]
    dtype = None
    given = None if settings.only_models else settings.model
    model, named = given or file.base_model, flags.values(args, "--served-model-name")
    adapters = {**{entry.name: str(entry.path) for entry in file.entries}, **settings.lora}
    if model is None:
        # Not bfloat16: on a CPU with AMX, vLLM 0.32 uses tiles for attention without asking the kernel for them, and
        # a model this small does nothing before that would have asked: SIGILL (docs/decisions/0004).
        model, names, dtype = str(model_path()), (MODEL_NAME,), "float32"
        # Servers that are balanced have models of their own.
        takes_some = base.load(settings.engine).capabilities.lora and not flags.has(args, "--no-enable-lora")
        own = demo_adapters() if takes_some and settings.own_instances else {}
        adapters = {**{name: str(path) for name, path in own.items()}, **adapters}
    else:
        names = (file.served_name,) if file.served_name and not given else (model,)
        engine = base.load(settings.engine)
        if isinstance(engine, base.LocatesModels):
            model = engine.locate(model, what)
        else:
            _check_model(model, what)
    if named or settings.served_names:
        names = tuple(named or settings.served_names)
    ranks = [_adapter_rank(name, Path(path)) for name, path in adapters.items()]
    for name in adapters:
        if name in names:
            raise UsageError(f"--lora {name}: that is the name of the model itself", exit_code=2)
    max_loras = flags.integer(args, "--max-loras", file.max_loras or max(4, min(len(adapters), 16)))
    cached = file.max_cpu_loras or file.cache_size or max(32, max_loras)
    return EngineSpec(
        engine=settings.engine,
        model=model,
        served_names=names,
        adapters={name: str(Path(path).expanduser().absolute()) for name, path in adapters.items()},
        extra_args=args,
        tensor_parallel_size=_tensor_parallel(settings),
        max_lora_rank=flags.integer(args, "--max-lora-rank", accepted_rank(file.max_lora_rank or max([16, *ranks]))),
        max_loras=max_loras,
        max_cpu_loras=flags.integer(args, "--max-cpu-loras", max(cached, max_loras)),
        dynamic_loading=file.dynamic_loading,
        lazy=frozenset(entry.name for entry in file.entries if not entry.auto_load),
        descriptions={entry.name: entry.description for entry in file.entries if entry.description},
        cpu_kv_gib=settings.cpu_kv_gib,
        gpu_memory=settings.max_gpu_memory,
        dtype=dtype,
        log=_engine_log(settings),
    )


def _engine_log(settings: Settings) -> EngineLog:
    """Raises UsageError for a configuration that is none: each worker would die of it at its start."""
    path = settings.worker_log_config
    if path is not None:
        try:
            found = bounded.parse_json(bounded.read_text(path).encode(), bounded.SETTINGS_NODES)
        except OSError as error:
            raise UsageError(f"worker_log_config {path}: {error.strerror}", exit_code=2) from None
        except ValueError as error:
            raise UsageError(f"worker_log_config {path}: {' '.join(str(error).split())}", exit_code=2) from None
        if not isinstance(found, dict):
            raise UsageError(f"worker_log_config {path}: a JSON object is needed", exit_code=2)
    return EngineLog(
        settings.worker_logging, None if path is None else str(path), settings.worker_log_level,
        settings.worker_log_format == "json",
    )  # fmt: skip


def _lora_file(settings: Settings) -> LoraFile:
    """`--lora-config`, with what the environment says of its limits."""
    file = lora_config.read(settings.lora_config) if settings.lora_config else LoraFile(())
    return lora_config.with_environment(file, environment())


def accepted_rank(rank: int) -> int:
    """The smallest ``--max-lora-rank`` that vLLM accepts and that holds ``rank``. Raises UsageError above 512."""
    for accepted in LORA_RANKS:
        if rank <= accepted:
            return accepted
    raise UsageError(f"LoRA rank {rank} is above {LORA_RANKS[-1]}, the most that vLLM takes")


def _tensor_parallel(settings: Settings) -> int:
    given = flags.integer(settings.engine_args, "--tensor-parallel-size", settings.tensor_parallel_size)
    if given != settings.tensor_parallel_size and settings.tensor_parallel_size != 1:
        raise UsageError(
            f"--tensor-parallel-size {settings.tensor_parallel_size} and, for the engine, {given}: which?", exit_code=2
        )
    return given


def _path(text: str, what: str) -> Path:
    """``text`` with ``~`` resolved. Raises UsageError for what cannot be a path here."""
    try:
        path = Path(text).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:
        raise UsageError(f"{what} {text}: {getattr(error, 'strerror', None) or error}") from None
    return path


def _check_model(model: str, what: str) -> None:
    if not looks_like_path(model):
        return
    path = _path(model, what)
    if not path.exists():
        raise UsageError(f"{what} {model}: no such file or folder")
    if path.is_file() and path.suffix == ".gguf":
        return
    if not path.is_dir() or not any((path / name).is_file() for name in _MODEL_FILES):
        raise UsageError(f"{what} {model}: holds no model (a folder with a config.json is needed)")


def _adapter_rank(name: str, path: Path) -> int:
    if not NAME.fullmatch(name):
        raise UsageError(f"--lora {name!r}: [A-Za-z0-9._-], 1 to 128 characters are needed", exit_code=2)
    path = _path(str(path), f"--lora {name}:")
    if not path.is_dir():
        raise UsageError(f"--lora {name}: no folder {path}")
    try:
        with bounded.open_regular(path / "adapter_config.json") as stream:
            config = bounded.parse_json(bounded.read(stream, bounded.SETTINGS_BYTES))
        rank = int(config["r"])
    except FileNotFoundError:
        raise UsageError(f"--lora {name}: {path} is no LoRA adapter (no adapter_config.json in it)") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        raise UsageError(f"--lora {name}: {path}/adapter_config.json is not one of a LoRA adapter") from None
    return rank
