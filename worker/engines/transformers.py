"""transformers: `transformers serve`, for models that no other engine knows yet.

Tested with transformers 5.19. One request at a time: others wait in the balancer's queue, where they are served in
turn. (Its continuous batching makes every answer with the sampling of the first request.) It knows no adapters.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping
from typing import Any

from config.errors import UsageError
from worker.engines.base import Command
from worker.engines.foreign import models
from worker.engines.foreign.rules import RequestRules
from worker.spec import EngineSpec, Slot, WorkerEndpoint

#: Its own default.
_MOST_TOKENS = 1024


def _sampled(body: dict[str, Any], chat: bool) -> None:
    """A request is sampled unless it says ``temperature`` 0, as everywhere else. This engine leaves that to the model's
    own ``generation_config.json``, which most do not have."""
    if "logit_bias" in body:  # it fails on whole numbers
        body["logit_bias"] = {name: float(bias) for name, bias in body["logit_bias"].items()}
    if body.get("temperature") != 0:
        body["generation_config"] = json.dumps({"do_sample": True, "max_new_tokens": _MOST_TOKENS})


class TransformersEngine(models.ForeignEngine):
    name = "transformers"
    #: With the demo model, `tests/bench/engines.py` shows about as much.
    process_bytes = 600 << 20
    startup_interval = 0.25
    busy_start = True
    uses_gpu = computes = True
    rules = RequestRules(
        name=name,
        takes=frozenset({"max_tokens", "temperature", "top_p", "stop", "seed", "logit_bias", "chat_template_kwargs"}),
        renames={"max_completion_tokens": "max_tokens"}, complete=_sampled, streams_only=True,
    )  # fmt: skip

    def check(self) -> None:
        missing = [
            name for name in ("transformers", "torch", "accelerate", "fastapi", "uvicorn", "openai")
            if importlib.util.find_spec(name) is None
        ]  # fmt: skip
        if missing:
            raise UsageError(f"{', '.join(missing)}: not installed: pip install 'clusterctl[transformers]'")

    @property
    def finds_gpus(self) -> bool:
        try:
            return "+cpu" not in importlib.metadata.version("torch")
        except importlib.metadata.PackageNotFoundError:
            return False

    def command(
        self, spec: EngineSpec, endpoint: WorkerEndpoint, api_key: str, slot: Slot, environ: Mapping[str, str]
    ) -> Command:
        serving = self.serving(spec, slot, seats=1, asked_as=spec.model, answers_as=f"{spec.model}@main")
        wanted = ["--host", endpoint.host, "--port", str(endpoint.port), "--device", "auto" if slot.gpus else "cpu"]
        if spec.dtype is not None:
            wanted += ["--dtype", spec.dtype]
        if not slot.gpus:
            environ = {"OMP_NUM_THREADS": str(len(serving.cores) or 1), **environ}
        argv = [*models.served_by(serving), "transformers", "serve", spec.model]
        return self.behind_guard([*argv, *wanted], spec, api_key, slot, environ)


ENGINE = TransformersEngine()
