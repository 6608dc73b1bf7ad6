"""The `EngineSpec` that settings ask for: the model, its names, and the adapters as far as names and folders go."""

from __future__ import annotations

from pathlib import Path

from config import bounded, lora_config
from config.disk.absolute import looks_like_path
from config.errors import UsageError
from config.lora_config import LoraFile
from config.model_names import NAME
from config.settings import Settings, environment
from worker import fetched
from worker.demo import MODEL_NAME, model_path
from worker.demo import adapters as demo_adapters
from worker.engines import base, flags
from worker.spec import EngineLog, EngineSpec

#: Ranks that vLLM accepts for ``--max-lora-rank`` (vllm.config.lora.MaxLoRARanks, 0.32).
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)

#: What `--model` may be a path to, if it is one.
_MODEL_FILES = ("config.json", "params.json")


def from_settings(settings: Settings, what: str = "--model") -> EngineSpec:
    """What all workers of a group have in common; ``what`` the model is called where it was given. Raises UsageError
    for models and adapters that are none."""
    args, file = settings.engine_args, _lora_file(settings)
    names: tuple[str, ...]
    dtype = None
    given = None if settings.only_models else settings.model
    model, named = given or file.base_model, flags.values(args, "--served-model-name")
    adapters = fetched.adapters(settings, {**{entry.name: entry.path for entry in file.entries}, **settings.lora})
    if model is None:
        # Not bfloat16: on a CPU with AMX, vLLM 0.32 uses tiles for attention without asking the kernel for them, and
        # a model this small does nothing before that would have asked: SIGILL (docs/decisions/0004).
        model, names, dtype = str(model_path()), (MODEL_NAME,), "float32"
        # Servers that are balanced have models of their own.
        takes_some = base.load(settings.engine).capabilities.lora and not flags.has(args, "--no-enable-lora")
        own = demo_adapters() if takes_some and settings.own_instances else {}
        adapters = {**{name: str(path) for name, path in own.items()}, **adapters}
    else:
        names = (file.served_name,) if file.served_name and not given else (fetched.name_of(model),)
        engine, model = base.load(settings.engine), fetched.model(settings, model)
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
        return int(bounded.read_object(path / "adapter_config.json")["r"])
    except FileNotFoundError:
        raise UsageError(f"--lora {name}: {path} is no LoRA adapter (no adapter_config.json in it)") from None
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        raise UsageError(f"--lora {name}: {path}/adapter_config.json is not one of a LoRA adapter") from None
