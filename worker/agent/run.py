"""``python -m worker.agent.run HOME HOST LEASE DESCRIPTOR [--in-pod]``: the agent itself, on a socket that listens
already. In a pod it stays when its workers have ended, and SIGTERM asks for the end of both; and workers get what only
that container's environment says (of its GPUs, of caches)."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from aiohttp import web

from worker.agent import server
from worker.agent.cache import AdapterCache
from worker.agent.starts import Starts
from worker.drivers.remote import protocol

#: What names of a container's variables begin with that are no supervisor's to know.
_OF_CONTAINER = ("CUDA_", "HF_", "HUGGING_FACE_", "LD_LIBRARY_PATH", "NCCL_", "NVIDIA_", "VLLM_")


async def serve(
    root: Path, host: str, lease: float, listener: socket.socket, key: str, environment: Mapping[str, str] | None = None
) -> None:
    """Until it is told to end, or its lease is over. ``environment``: in a pod, what workers get beside what they are
    started with."""
    cache, in_pod = await asyncio.to_thread(AdapterCache, root / "adapters"), environment is not None
    agent = server.make(key, lease, lambda changed: Starts(root, host, changed, environment), cache, in_pod)
    if in_pod:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, agent.leave)
    runner = web.AppRunner(agent.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        await agent.ended.wait()
    finally:
        await runner.cleanup()


def main() -> None:
    root, host, lease, descriptor, *in_pod = sys.argv[1:]
    listener = socket.socket(fileno=int(descriptor))
    listener.set_inheritable(False)
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
    key = os.environ.pop(protocol.KEY)
    of_container = {name: value for name, value in os.environ.items() if name.startswith(_OF_CONTAINER)}
    asyncio.run(serve(Path(root), host, float(lease), listener, key, of_container if in_pod else None))


if __name__ == "__main__":
    main()
