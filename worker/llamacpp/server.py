"""``python -m worker.llamacpp.server``: llama.cpp's own server, as the wheel ``xllamacpp`` brings it.

A process of its own: loading a model holds Python's lock for seconds, and to take another set of adapters the front
starts a second one beside it. What to run comes as one line of JSON on standard input, so that nobody else reads its
key; where it answers goes out as one line. It ends when its input does, whatever ends the front.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> int:
    """Serve until standard input ends; the exit status."""
    told = json.loads(sys.stdin.readline())
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = told["model"]
    params.api_keys = [told["key"]]
    params.n_parallel, params.n_ctx = told["slots"], told["slots"] * told["context"]
    params.n_batch = params.n_ubatch = told["batch"]
    params.n_threads_http = told["slots"] + 8
    params.n_gpu_layers = told["gpu_layers"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = told["threads"]
    # Idle prompts would be kept in up to 8 GiB of main memory.
    params.cache_ram_mib = 0
    params.endpoint_metrics, params.ui, params.verbosity = True, False, 1
    params.lora_init_without_apply = True
    params.lora_adapters = [_adapter(xllamacpp.CommonAdapterLoraInfo(), path) for path in told["adapters"]]
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return 1
    print(json.dumps({"url": server.listening_address, "version": xllamacpp.__version__}), flush=True)
    sys.stdin.read()
    os._exit(0)  # its own end waits for what is still being made


def _adapter(made: Any, path: str) -> Any:
    """Of no weight: an adapter that no request names counts otherwise with its full one."""
    made.path, made.scale = path, 0.0
    return made


if __name__ == "__main__":
    sys.exit(main())
