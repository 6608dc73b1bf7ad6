"""The series of vLLM's ``/metrics`` that are read of a worker (`worker.progress`, `clusterctl top`). Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_HELP = {
    "vllm:num_requests_running": ("gauge", "Requests that are being computed"),
    "vllm:num_requests_waiting": ("gauge", "Requests that wait for a slot"),
    "vllm:generation_tokens_total": ("counter", "Tokens made"),
    "vllm:iteration_tokens_total_count": ("counter", "Steps of the engine (llama.cpp's calls of llama_decode)"),
    "vllm:request_success_total": ("counter", "Requests answered"),
}


@dataclass(slots=True)
class LlamaCounts:
    """``running`` and ``waiting`` are answers, of which a request may want several. Steps are those of all servers that
    this worker has had; what one says is missing while it computes a long step, and then what it said before holds."""

    running: int = 0
    waiting: int = 0
    tokens: int = 0
    finished: int = 0
    _steps: int = 0
    _latest: int = 0
    _pid: int = 0

    def note_steps(self, told: int | None, pid: int) -> None:
        """``told``: since the server ``pid`` was started."""
        if told is None:
            return
        self._steps += told - (self._latest if pid == self._pid else 0)
        self._latest, self._pid = told, pid

    def page(self, model: str) -> str:
        label = f'{{model_name={json.dumps(model)},engine="0"}}'
        values = (self.running, self.waiting, self.tokens, self._steps, self.finished)
        return "".join(
            f"# HELP {name} {text}.\n# TYPE {name} {kind}\n{name}{label} {value}.0\n"
            for (name, (kind, text)), value in zip(_HELP.items(), values, strict=True)
        )
