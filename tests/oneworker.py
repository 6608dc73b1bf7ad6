"""A single worker, without a cluster, as our own engine starts it; its key is `harness.WORKER_KEY`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from config.settings import inherited_environment
from harness import AS_CLUSTER, WORKER_KEY, free_port, poll
from worker.drivers import forked
from worker.drivers.process import spawn
from worker.engines import base
from worker.spec import EngineSpec, Slot, WorkerEndpoint, WorkerSpec


@contextmanager
def one_worker(
    folder: Path, model: Path, adapters: Mapping[str, str], *given: str, engine: str = "vllm",
    zygote: Path | None = None, **environ: str,
) -> Iterator[str]:  # fmt: skip
    """Its URL, with ``adapters`` (name: path) loaded. ``given``: flags of a user's; ``environ``: variables in place of
    those that our engine gives it; ``zygote``: where that listens which forks it (`zygotes.of_vllm`)."""
    endpoint = WorkerEndpoint(free_port())
    spec = EngineSpec(engine, str(model), ("demo",), dict(adapters), given, dtype="float32")
    command = base.load(engine).command(spec, endpoint, WORKER_KEY, Slot(), inherited_environment())
    place: Any = {"cwd": folder, "log": folder / "log", "run_file": folder / "run"}
    if zygote is None:
        handle = spawn(command.argv, env=command.env | environ, **place)
    else:
        start = WorkerSpec("", 1, command.argv, command.env | environ, endpoint=endpoint, api_key=WORKER_KEY, **place)
        handle = forked.start(zygote, start)
    url = f"http://127.0.0.1:{endpoint.port}"
    try:
        poll(lambda: _healthy(url), 240, f"{engine} serves")
        for name, path in adapters.items():
            body = {"lora_name": name, "lora_path": path}
            answer = httpx.post(f"{url}/v1/load_lora_adapter", json=body, headers=AS_CLUSTER, timeout=60)
            assert answer.status_code == 200
        yield url
    finally:
        poll(lambda: not handle.kill_tree(), 15, "nothing of it is left")


def _healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", headers=AS_CLUSTER, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False
