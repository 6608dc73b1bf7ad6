"""OpenVINO Model Server: ``ovms``, on processors and GPUs of Intel.

Not run here: written after its documents (docs.openvino.ai, "Model Server": parameters, security considerations,
OpenAI API; 2025.4), and held to the contract by a stub that answers as those say. It is a binary: what asks for the key
is a process in front (`worker.engines.foreign.reverse`). It asks for a key itself on ``/v3`` alone.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from config.errors import UsageError
from config.topology import Capabilities
from worker.engines import flags, key_guard
from worker.engines.base import Command
from worker.engines.foreign import models
from worker.engines.foreign.reverse import PORT
from worker.engines.foreign.rules import RequestRules, Serving
from worker.spec import LOOPBACK, EngineSpec, Slot, WorkerEndpoint

_GIB = 1024**3

#: What it calls its model.
_NAME = "default"

#: Requests it is given at a time, unless ``--max_num_seqs`` says otherwise; its own default is 256.
_SEATS = 64


class OpenVinoEngine:
    name = "openvino"
    startup_interval = 0.5
    busy_start = computes = True
    uses_gpu = finds_gpus = False  # Intel's, which NVML does not count
    capabilities = Capabilities(
        lora=False, token_ids=False, detokenize=False, progress=False, embeddings=False, sleep=False
    )
    rules = RequestRules(
        name,
        takes=frozenset({
            "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "stop", "seed", "ignore_eos",
            "presence_penalty", "frequency_penalty", "repetition_penalty", "response_format", "tool_choice",
            "stream_options", "chat_template_kwargs",
        }),
    )  # fmt: skip

    def check(self) -> None:
        if shutil.which("ovms") is None:
            raise UsageError("OpenVINO Model Server (ovms) is not installed: docs/engines.md says how")
        if importlib.util.find_spec("uvicorn") is None:
            raise UsageError("uvicorn is not installed: pip install 'clusterctl[openvino]'")

    def memory_estimate(self, spec: EngineSpec) -> int:
        return _GIB + models.weight_bytes(Path(spec.model))

    def command(
        self, spec: EngineSpec, endpoint: WorkerEndpoint, api_key: str, slot: Slot, environ: Mapping[str, str]
    ) -> Command:
        folder = Path(spec.model)
        serving = Serving(
            self.name, spec.served_names, flags.integer(spec.extra_args, "--max-num-seqs", _SEATS), asked_as=_NAME,
            answers_as=_NAME, context=models.context(folder),
            cores=tuple(core for rank in slot.cores for core in rank),
        )  # fmt: skip
        argv = [sys.executable, "-m", "worker.engines.foreign.reverse", serving.to_json()]
        argv += [endpoint.host, str(endpoint.port), "ovms", "--rest_bind_address", LOOPBACK, "--rest_port", PORT]
        # A folder has to hold what it exported; anything else it fetches from the hub, into the worker's own folder.
        argv += ["--model_name", _NAME]
        if folder.is_dir():
            argv += ["--model_path", spec.model]
        else:
            argv += ["--source_model", spec.model, "--model_repository_path", "models", "--task", "text_generation"]
        env = models.environment(spec, environ, slot) | {key_guard.KEY: api_key}
        return Command((*argv, *models.own_args(spec)), env)


ENGINE = OpenVinoEngine()
