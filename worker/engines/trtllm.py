"""TensorRT-LLM: `trtllm-serve`, on GPUs of NVIDIA.

Not run here: written after its documents (nvidia.github.io/TensorRT-LLM, "trtllm-serve", 1.1) and the source of its
server (tensorrt_llm/commands/serve.py, tensorrt_llm/serve/openai_server.py), and held to the contract by a stub that
answers as those say. It answers for any name of a model, by its folder's, and refuses fields that it does not know.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from config.errors import UsageError
from config.topology import Capabilities
from worker.engines import flags, key_guard
from worker.engines.base import Command
from worker.engines.foreign import models
from worker.engines.foreign.rules import RequestRules, Serving
from worker.engines.vllm import memory_share
from worker.spec import EngineSpec, Slot, WorkerEndpoint

_GIB = 1024**3

#: Requests it computes at a time, unless ``--max_batch_size`` says otherwise.
_SEATS = 128


class TrtllmEngine:
    name = "trtllm"
    startup_interval = 0.5
    busy_start = uses_gpu = finds_gpus = computes = True
    capabilities = Capabilities(
        lora=False, token_ids=False, detokenize=False, progress=False, embeddings=False, sleep=False
    )
    rules = RequestRules(name, refuses=frozenset({"lora_request", "disaggregated_params"}))

    def check(self) -> None:
        if importlib.util.find_spec("tensorrt_llm") is None:
            raise UsageError("TensorRT-LLM is not installed: docs/engines.md says how")

    def memory_estimate(self, spec: EngineSpec) -> int:
        return 8 * _GIB + models.weight_bytes(Path(spec.model))

    def command(
        self, spec: EngineSpec, endpoint: WorkerEndpoint, api_key: str, slot: Slot, environ: Mapping[str, str]
    ) -> Command:
        folder = Path(spec.model)
        seats = flags.integer(spec.extra_args, "--max-batch-size", _SEATS)
        serving = Serving(
            self.name, spec.served_names, seats, answers_as=folder.name if folder.is_dir() else spec.model,
            context=models.context(folder), cores=tuple(core for rank in slot.cores for core in rank),
        )  # fmt: skip
        wanted = ["--host", endpoint.host, "--port", str(endpoint.port)]
        # Its flags have underscores, and `flags` reads both spellings as one.
        for flag, value in {
            "--max_batch_size": str(seats), "--tp_size": str(spec.tensor_parallel_size),
            **({"--kv_cache_free_gpu_memory_fraction": f"{memory_share(slot.share):.2f}"} if slot.share > 1 else {}),
        }.items():  # fmt: skip
            if not flags.has(spec.extra_args, flag.replace("_", "-")):
                wanted += [flag, value]
        env = models.environment(spec, environ, slot) | {key_guard.KEY: api_key}
        argv = [*models.served_by(serving), "trtllm-serve", "serve", spec.model]
        return Command((*argv, *wanted, *models.own_args(spec)), env)


ENGINE = TrtllmEngine()
