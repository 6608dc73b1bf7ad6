"""mlx-lm: for Apple Silicon, whose GPU it uses; on Linux it computes on processors.

Tested with mlx-lm 0.32. It takes no PEFT adapters: merge them into the model.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path

from config.errors import UsageError
from config.topology import Capabilities
from worker.engines import flags, key_guard
from worker.engines.base import Command
from worker.engines.foreign import models
from worker.engines.foreign.mlx import DEFAULT
from worker.engines.foreign.rules import RequestRules, Serving
from worker.spec import EngineSpec, Slot, WorkerEndpoint

_MIB = 1024 * 1024

#: Beside the weights: with the demo model, `tests/bench/engines.py` shows about as much.
_PROCESS_BYTES = 500 * _MIB

#: Requests it computes at a time, unless ``--decode-concurrency`` says otherwise.
_SEATS = 8


class MlxEngine:
    name = "mlx"
    startup_interval = 0.25
    busy_start = computes = True
    uses_gpu = finds_gpus = False  # Apple's own, which NVML does not count
    capabilities = Capabilities(
        lora=False, token_ids=False, detokenize=False, progress=False, embeddings=False, sleep=False
    )
    rules = RequestRules(
        name=name,
        takes=frozenset({
            "max_tokens", "temperature", "top_p", "top_k", "min_p", "stop", "seed", "logit_bias", "presence_penalty",
            "frequency_penalty", "repetition_penalty", "chat_template_kwargs", "stream_options",
        }),
        renames={"max_completion_tokens": "max_tokens"},
    )  # fmt: skip

    def check(self) -> None:
        if importlib.util.find_spec("mlx_lm") is None or importlib.util.find_spec("mlx") is None:
            raise UsageError("mlx-lm is not installed: pip install 'clusterctl[mlx]'")

    def memory_estimate(self, spec: EngineSpec) -> int:
        return _PROCESS_BYTES + models.weight_bytes(Path(spec.model))

    def command(
        self, spec: EngineSpec, endpoint: WorkerEndpoint, api_key: str, slot: Slot, environ: Mapping[str, str]
    ) -> Command:
        seats = flags.integer(spec.extra_args, "--decode-concurrency", _SEATS)
        serving = Serving(
            self.name, spec.served_names, seats, asked_as=DEFAULT, context=models.context(Path(spec.model)),
            cores=tuple(core for rank in slot.cores for core in rank),
        )  # fmt: skip
        wanted = ["--model", spec.model, "--host", endpoint.host, "--port", str(endpoint.port)]
        # What a request says nothing of is as with the other engines.
        wanted += flags.unless_given(spec.extra_args, {
            "--decode-concurrency": (str(seats),), "--temp": ("1.0",), "--max-tokens": ("1024",),
            "--log-level": ("WARNING",),
        })  # fmt: skip
        env = models.environment(spec, environ, slot) | {key_guard.KEY: api_key}
        argv = [sys.executable, "-m", "worker.engines.foreign.mlx", serving.to_json()]
        return Command((*argv, *wanted, *models.own_args(spec)), env)


ENGINE = MlxEngine()
