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
from worker.engines import flags
from worker.engines.base import Command
from worker.engines.foreign import models
from worker.engines.foreign.reverse import PORT
from worker.engines.foreign.rules import RequestRules
from worker.spec import LOOPBACK, EngineSpec, Slot, WorkerEndpoint

#: What it calls its model.
_NAME = "default"

#: Requests it is given at a time, unless ``--max_num_seqs`` says otherwise; its own default is 256.
_SEATS = 64


class OpenVinoEngine(models.ForeignEngine):
    name = "openvino"
    process_bytes = 1 << 30
    startup_interval = 0.5
    busy_start = computes = True
    uses_gpu = finds_gpus = False  # Intel's, which NVML does not count
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

    def command(
        self, spec: EngineSpec, endpoint: WorkerEndpoint, api_key: str, slot: Slot, environ: Mapping[str, str]
    ) -> Command:
        serving = self.serving(spec, slot, flags.integer(spec.extra_args, "--max-num-seqs", _SEATS), _NAME, _NAME)
        argv = [sys.executable, "-m", "worker.engines.foreign.reverse", serving.to_json()]
        argv += [endpoint.host, str(endpoint.port), "ovms", "--rest_bind_address", LOOPBACK, "--rest_port", PORT]
        # A folder has to hold what it exported; anything else it fetches from the hub, into the worker's own folder.
        argv += ["--model_name", _NAME]
        if Path(spec.model).is_dir():
            argv += ["--model_path", spec.model]
        else:
            argv += ["--source_model", spec.model, "--model_repository_path", "models", "--task", "text_generation"]
        return self.behind_guard(argv, spec, api_key, slot, environ)


ENGINE = OpenVinoEngine()
