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
from worker.engines import flags
from worker.engines.base import Command
from worker.engines.foreign import models
from worker.engines.foreign.rules import RequestRules
from worker.engines.vllm import memory_share
from worker.spec import EngineSpec, Slot, WorkerEndpoint

#: Requests it computes at a time, unless ``--max_batch_size`` says otherwise.
_SEATS = 128


class TrtllmEngine(models.ForeignEngine):
    name = "trtllm"
    process_bytes = 8 << 30
    startup_interval = 0.5
    busy_start = uses_gpu = finds_gpus = computes = True
    rules = RequestRules(name, refuses=frozenset({"lora_request", "disaggregated_params"}))

    def check(self) -> None:
        if importlib.util.find_spec("tensorrt_llm") is None:
            raise UsageError("TensorRT-LLM is not installed: docs/engines.md says how")

    def command(
        self, spec: EngineSpec, endpoint: WorkerEndpoint, api_key: str, slot: Slot, environ: Mapping[str, str]
    ) -> Command:
        folder = Path(spec.model)
        seats = flags.integer(spec.extra_args, "--max-batch-size", _SEATS)
        serving = self.serving(spec, slot, seats, answers_as=folder.name if folder.is_dir() else spec.model)
        wanted = ["--host", endpoint.host, "--port", str(endpoint.port)]
        # Its flags have underscores, and `flags` reads both spellings as one.
        for flag, value in {
            "--max_batch_size": str(seats), "--tp_size": str(spec.tensor_parallel_size),
            **({"--kv_cache_free_gpu_memory_fraction": f"{memory_share(slot.share):.2f}"} if slot.share > 1 else {}),
        }.items():  # fmt: skip
            if not flags.has(spec.extra_args, flag.replace("_", "-")):
                wanted += [flag, value]
        argv = [*models.served_by(serving), "trtllm-serve", "serve", spec.model]
        return self.behind_guard([*argv, *wanted], spec, api_key, slot, environ)


ENGINE = TrtllmEngine()
