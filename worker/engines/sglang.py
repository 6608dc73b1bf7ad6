"""SGLang: `python -m sglang.launch_server`, on GPUs.

Not run here: written after its documents (docs.sglang.io, "Server arguments" and "OpenAI-compatible API", 0.5) and the
source of its server (python/sglang/srt/entrypoints/http_server.py), and held to the contract by a stub that answers as
those say. It answers for any name of a model. Its own key would stand in the command line, and leaves routes open.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from config.errors import UsageError
from worker.engines import flags
from worker.engines.base import Command
from worker.engines.foreign import models
from worker.engines.foreign.rules import RequestRules
from worker.engines.vllm import memory_share
from worker.spec import EngineSpec, Slot, WorkerEndpoint

#: What it calls its model.
_NAME = "default"

#: Requests it computes at a time, unless ``--max-running-requests`` says otherwise.
_SEATS = 128


class SglangEngine(models.ForeignEngine):
    name = "sglang"
    process_bytes = 8 << 30
    startup_interval = 0.5
    busy_start = uses_gpu = finds_gpus = computes = True
    rules = RequestRules(name, refuses=frozenset({
        "lora_path", "bootstrap_host", "bootstrap_port", "bootstrap_room", "custom_logit_processor", "session_params",
        "rid", "return_hidden_states",
    }))  # fmt: skip

    def check(self) -> None:
        if importlib.util.find_spec("sglang") is None:
            raise UsageError("SGLang is not installed: docs/engines.md says how")

    def command(
        self, spec: EngineSpec, endpoint: WorkerEndpoint, api_key: str, slot: Slot, environ: Mapping[str, str]
    ) -> Command:
        seats = flags.integer(spec.extra_args, "--max-running-requests", _SEATS)
        wanted = ["--model-path", spec.model, "--host", endpoint.host, "--port", str(endpoint.port)]
        wanted += ["--served-model-name", _NAME]
        wanted += flags.unless_given(spec.extra_args, {
            "--max-running-requests": (str(seats),),
            "--tp-size": (str(spec.tensor_parallel_size),),
            **({"--mem-fraction-static": (f"{memory_share(slot.share):.2f}",)} if slot.share > 1 else {}),
            **({"--device": ("cpu",)} if not slot.gpus else {}),
            **({"--dtype": (spec.dtype,)} if spec.dtype is not None else {}),
        })  # fmt: skip
        argv = models.served_by(self.serving(spec, slot, seats, _NAME, _NAME))
        return self.behind_guard([*argv, "-m", "sglang.launch_server", *wanted], spec, api_key, slot, environ)


ENGINE = SglangEngine()
