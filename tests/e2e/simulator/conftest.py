"""A real vLLM worker and a simulated one that was told the same, for all tests that compare them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance import send
from harness import WORKER_KEY


@pytest.fixture(scope="session")
def sim_worker_url(vllm_worker_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A simulated worker told what the real one was told."""
    models = json.loads(send(vllm_worker_url, "GET", "/v1/models")[2])["data"]
    argv = [sys.executable, "-m", "worker.sim", "--host", "127.0.0.1", "--port", "0"]
    argv += ["--model", models[0]["root"], "--served-model-name", models[0]["id"], "--enable-lora"]
    argv += ["--max-loras", "2", "--max-model-len", str(models[0]["max_model_len"]), "--itl-ms", "1"]
    loaded = [f"{model['id']}={model['root']}" for model in models[1:]]
    argv += ["--lora-modules", *loaded] if loaded else []
    log = tmp_path_factory.mktemp("sim") / "log"
    env = {**os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "VLLM_API_KEY": WORKER_KEY}
    root = Path(__file__).resolve().parents[3]
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stderr=out, stdin=subprocess.DEVNULL, env=env, cwd=root, process_group=0)
    try:
        yield _wait_for_url(process, log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _wait_for_url(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and process.poll() is None:
        if found := re.search(r"(http://\S+)\n", log.read_text()):
            return found[1]
        time.sleep(0.02)
    raise AssertionError(f"the simulated worker did not start: {log.read_text()}")


@pytest.fixture(scope="session")
def urls(vllm_worker_url: str, sim_worker_url: str) -> tuple[str, str]:
    """Real, simulated."""
    return vllm_worker_url, sim_worker_url


@pytest.fixture(scope="session")
def context(vllm_worker_url: str) -> int:
    """The context length of both, in tokens."""
    return int(json.loads(send(vllm_worker_url, "GET", "/v1/models")[2])["data"][0]["max_model_len"])
