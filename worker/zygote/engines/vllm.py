"""vLLM: its API server runs in the fork; EngineCore and its workers come from a server of forks that is made of it.

vLLM starts EngineCore by a fresh interpreter, which imports everything once more: another six seconds, and as many for
each of its workers. So before anything else happens in the fork, while it has a single thread, it forks once more: that
process becomes the `multiprocessing.forkserver` of which vLLM is told. EngineCore forks its workers itself, as vLLM
does wherever there is a GPU.
"""

from __future__ import annotations

import importlib
import multiprocessing.forkserver
import multiprocessing.util
import os
import socket
import sys
from collections.abc import Sequence
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from worker.engines import key_guard

#: What API server, EngineCore and worker have imported when they serve; another version may lack some.
_MODULES = (
    "uvloop",
    "uvicorn",
    "vllm.entrypoints.launchers.api_server.entry",
    "vllm.entrypoints.launchers.api_server.routers",
    "vllm.entrypoints.launchers.app",
    "vllm.entrypoints.launchers.cli_args",
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.engine.core",
    "vllm.v1.engine.async_llm",
    "vllm.v1.engine.core_client",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.executor.uniproc_executor",
    "vllm.v1.worker.worker_base",
    "vllm.v1.core.sched.scheduler",
    "vllm.v1.structured_output.backend_xgrammar",
    "vllm.model_executor.models.llama",
    "vllm.model_executor.model_loader.default_loader",
    "vllm.lora.worker_manager",
    "transformers.models.llama.tokenization_llama",
    "transformers.tokenization_utils_tokenizers",
)

#: The same, where vLLM computes on the processor.
_ON_CPU = (
    "vllm.v1.worker.cpu_worker",
    "vllm.v1.worker.cpu_model_runner",
    "vllm.v1.attention.backends.cpu_attn",
    "vllm.lora.punica_wrapper.punica_cpu",
)

_MODULE = "vllm.entrypoints.openai.api_server"


def preload() -> None:
    """Raises ImportError where there is no vLLM."""
    import vllm.platforms

    for name in (*_MODULES, *(_ON_CPU if vllm.platforms.current_platform.is_cpu() else ())):
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"not imported: {name}: {error}", flush=True)
    assert key_guard.MIDDLEWARE  # ours, which each API server loads by name
    sys.path_importer_cache.clear()  # what is installed later is found


def obstacle() -> str | None:
    import torch

    if torch.cuda.is_initialized():
        return "CUDA is initialized in it, and a fork could not use it"
    return None


def run(argv: Sequence[str]) -> None:
    """As ``python -m vllm.entrypoints.openai.api_server …``, or ``vllm serve …``."""
    _bind_as_told()
    _fork_servers()
    context = multiprocessing.get_context("forkserver")
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("vllm") and hasattr(module, "get_mp_context"):
            vars(module)["get_mp_context"] = lambda: context
    plain = tuple(argv[1:3]) == ("-m", _MODULE)
    sys.argv = ["api_server", *argv[3:]] if plain else list(argv)
    entry: Any = importlib.import_module(
        "vllm.entrypoints.launchers.api_server.entry" if plain else "vllm.entrypoints.cli.main"
    )
    entry.main()


def _fork_servers() -> None:
    """What `ForkServer.ensure_running` does by starting an interpreter, by a fork of this process."""
    resource_tracker.ensure_running()
    alive, held = os.pipe()
    with socket.socket(socket.AF_UNIX) as listener:
        # A file that is our user's alone: who can connect has whatever they like run here (CVE-2022-42919).
        address = str(Path(multiprocessing.util.get_temp_dir()) / "clusterctl-forks")
        listener.bind(address)
        os.chmod(address, 0o600)  # noqa: PTH101
        listener.listen()
        pid = os.fork()
        if pid == 0:
            os.close(held)
            # EngineCore, a fork of this one, forks in turn: it could not ask here, where only its parent may.
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"
            try:
                multiprocessing.forkserver.main(listener.detach(), alive, [])
            finally:
                os._exit(0)
    os.close(alive)
    server: Any = multiprocessing.forkserver._forkserver
    server._forkserver_address, server._forkserver_alive_fd, server._forkserver_pid = address, held, pid


def _bind_as_told() -> None:
    """vLLM says by OMP_NUM_THREADS and OMP_PLACES, which are read when a process starts, how many threads a worker
    has and on which cores. In a fork they have been read already: it is said by calls."""
    import vllm.platforms

    if not vllm.platforms.current_platform.is_cpu():
        return
    worker: Any = importlib.import_module("vllm.v1.worker.cpu_worker").CPUWorker
    begin = worker.init_device

    def init_device(self: Any) -> None:
        if places := os.environ.get("OMP_PLACES", "").strip("{}"):
            _bind([int(core) for core in places.split(",")])
        begin(self)

    worker.init_device = init_device


def _bind(cores: Sequence[int]) -> None:
    """A thread for each of ``cores``, and there alone, as OMP_PROC_BIND would have it: threads that wait for each other
    on one core halve the speed."""
    import torch

    before = set(os.listdir("/proc/self/task"))  # noqa: PTH208
    torch.set_num_threads(len(cores))
    torch.ones(1 << 20).add_(1)  # large enough that all of them take part: now they are there
    ours = sorted(set(os.listdir("/proc/self/task")) - before, key=int)  # noqa: PTH208
    for thread, core in zip([0, *map(int, ours)], cores, strict=False):
        os.sched_setaffinity(thread, {core})
