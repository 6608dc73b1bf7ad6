"""Workers of every engine, as real processes with the demo model: what the contract is asked of."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

import enginestubs
from fakes import Processes, eventually
from harness import AS_CLUSTER, WORKER_KEY, free_port
from worker.demo import MODEL_NAME, model_path
from worker.drivers.process import Process
from worker.engines import base
from worker.engines.base import Engine
from worker.spec import EngineSpec, Slot, WorkerEndpoint

NAMES = (MODEL_NAME, "another-name")


@dataclass(frozen=True)
class Case:
    """How an engine's worker is started for tests: ``args`` are the engine's own flags. ``endless``: fields of a
    request that goes on to its last token. ``prepare(folder)`` makes what stands for an engine that cannot be installed
    here, and returns environment variables."""

    args: tuple[str, ...] = ()
    endless: Mapping[str, Any] = field(default_factory=lambda: {"ignore_eos": True})
    prepare: Callable[[Path], dict[str, str]] = lambda folder: {}


#: An engine that is not named here is started as it is.
CASES: dict[str, Case] = {
    "transformers": Case(endless={"logit_bias": {"2": -100}}),
    "mlx": Case(endless={"logit_bias": {"2": -100}}),
    "trtllm": Case(args=("--max_batch_size", "2"), prepare=enginestubs.install_trtllm),
    "sglang": Case(args=("--max-running-requests", "2"), prepare=enginestubs.install_sglang),
    "openvino": Case(args=("--max_num_seqs", "2"), prepare=enginestubs.install_openvino),
    "vllm": Case(args=("--enforce-eager", "--max-num-seqs", "4")),
}


class EngineWorker:
    """One running worker, and a client that has its key."""

    def __init__(self, name: str, processes: Processes, folder: Path, log: str = "worker") -> None:
        self.engine: Engine = base.load(name)
        self.case = CASES.get(name, Case())
        endpoint = WorkerEndpoint(free_port())
        spec = EngineSpec(name, str(model_path()), NAMES, extra_args=self.case.args, dtype="float32", cpu_kv_gib=0.25)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("CLUSTERCTL_")}
        environ |= self.case.prepare(folder)
        self.command = self.engine.command(spec, endpoint, WORKER_KEY, Slot(cores=((0, 1),)), environ)
        self.process: Process = processes.start(*self.command.argv, name=log, env=self.command.env)
        self._log = processes.log(log)
        self.url = endpoint.url
        self.http = self.client()

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=AS_CLUSTER, timeout=60)

    def wait(self, seconds: float) -> None:
        """Until it has answered a request. The log is shown if it does not."""
        try:
            eventually(self._answers, seconds)
        except AssertionError:
            raise AssertionError(self._log.read_text()[-4000:]) from None

    def _answers(self) -> bool:
        assert self.process.popen is not None
        if self.process.popen.poll() is not None:
            raise AssertionError("it has ended")
        try:
            return self.ask("completions", prompt="Hi", max_tokens=1).status_code == 200
        except httpx.TransportError:
            return False

    def ask(self, route: str, **body: Any) -> httpx.Response:
        return self.http.post(f"/v1/{route}", json=body)

    def close(self) -> None:
        self.http.close()


def events(text: str) -> list[Any]:
    """Of a stream; it has to end as one does."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line and not line.startswith(":")]
    assert lines[-1] == "[DONE]", lines[-2:]
    return [json.loads(line) for line in lines[:-1]]


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": MODEL_NAME, "messages": [{"role": "user", "content": text}], "temperature": 0, **more}


def said(found: list[Any]) -> str:
    """The text of a stream's events."""
    choices = [choice for event in found for choice in event["choices"]]
    return "".join((choice.get("delta") or {}).get("content") or choice.get("text") or "" for choice in choices)
