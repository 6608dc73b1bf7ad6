"""``python -m worker.agent.run HOME HOST LEASE DESCRIPTOR``: the agent itself, on a socket that listens already."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import sys
from pathlib import Path

from aiohttp import web

from worker.agent import server
from worker.agent.cache import AdapterCache
from worker.agent.starts import Starts
from worker.drivers.remote import protocol


async def serve(root: Path, host: str, lease: float, listener: socket.socket, key: str) -> None:
    """Until it is told to end, or its lease is over."""
    cache = await asyncio.to_thread(AdapterCache, root / "adapters")
    agent = server.make(key, lease, lambda changed: Starts(root, host, changed), cache)
    runner = web.AppRunner(agent.application(), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        await agent.ended.wait()
    finally:
        await runner.cleanup()


def main() -> None:
    root, host, lease, descriptor = sys.argv[1:]
    listener = socket.socket(fileno=int(descriptor))
    listener.set_inheritable(False)
    logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(serve(Path(root), host, float(lease), listener, os.environ.pop(protocol.KEY)))


if __name__ == "__main__":
    main()
