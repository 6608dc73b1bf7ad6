"""`make try` in fresh clones: seconds to install, and from clusterctl's start to the first answer.

python tests/bench/first.py [--runs 3]: clones this repository as it is committed.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).parents[2]
ASKED: dict[str, Any] = {
    "model": "smollm2", "temperature": 0, "max_tokens": 20,
    "messages": [{"role": "user", "content": "Tell me the capital of France."}],
}  # fmt: skip
_PATIENCE_S = 120.0


def run(folder: Path) -> tuple[float, float, str]:
    """Seconds of the installation and until the first answer, and the answer."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    began = time.monotonic()
    subprocess.run(["make", "--silent", ".venv/.engine-llamacpp"], cwd=folder, check=True)
    installed = time.monotonic()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"ARGS=--port {port} --state-dir {folder / 'state'}"
    process = subprocess.Popen(
        ["make", "--silent", "try", options], cwd=folder, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        return installed - began, *_first(f"http://127.0.0.1:{port}/v1/chat/completions", installed)
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait()


def _first(url: str, began: float) -> tuple[float, str]:
    while time.monotonic() < began + _PATIENCE_S:
        try:
            answer = httpx.post(url, json=ASKED, timeout=_PATIENCE_S)
            return time.monotonic() - began, str(answer.json()["choices"][0]["message"]["content"])
        except httpx.TransportError:
            time.sleep(0.02)
    raise TimeoutError(url)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    for number in range(parser.parse_args().runs):
        with tempfile.TemporaryDirectory() as folder:
            installing, answering, text = run(Path(folder) / "clone")
        told = f"installed in {installing:.1f} s, first answer after {answering:.1f} s: {text}"
        print(f"run {number + 1}: {told}", flush=True)


if __name__ == "__main__":
    main()
