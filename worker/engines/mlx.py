"""mlx-lm: for Apple Silicon, whose GPU it uses; on Linux it computes on processors.

Tested with mlx-lm 0.32. It takes no PEFT adapters: merge them into the model.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping

from config.errors import UsageError
from worker.engines import flags
from worker.engines.base import Command
from worker.engines.foreign import models
from worker.engines.foreign.mlx import DEFAULT
from worker.engines.foreign.rules import RequestRules
from worker.spec import EngineSpec, Slot, WorkerEndpoint

#: Requests it computes at a time, unless ``--decode-concurrency`` says otherwise.
_SEATS = 8


class MlxEngine(models.ForeignEngine):
    name = "mlx"
    #: With the demo model, `tests/bench/engines.py` shows about as much.
    process_bytes = 500 << 20
    startup_interval = 0.25
    busy_start = computes = True
    uses_gpu = finds_gpus = False  # Apple's own, which NVML does not count
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

    def command(
        self, spec: EngineSpec, endpoint: WorkerEndpoint, api_key: str, slot: Slot, environ: Mapping[str, str]
    ) -> Command:
        seats = flags.integer(spec.extra_args, "--decode-concurrency", _SEATS)
        serving = self.serving(spec, slot, seats, asked_as=DEFAULT)
        wanted = ["--model", spec.model, "--host", endpoint.host, "--port", str(endpoint.port)]
        # What a request says nothing of is as with the other engines.
        wanted += flags.unless_given(spec.extra_args, {
            "--decode-concurrency": (str(seats),), "--temp": ("1.0",), "--max-tokens": ("1024",),
            "--log-level": ("WARNING",),
        })  # fmt: skip
        argv = [sys.executable, "-m", "worker.engines.foreign.mlx", serving.to_json()]
        return self.behind_guard([*argv, *wanted], spec, api_key, slot, environ)


ENGINE = MlxEngine()
