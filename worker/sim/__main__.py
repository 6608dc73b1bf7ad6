"""``python -m worker.sim``: a vLLM worker without a model. See `worker.sim.settings` for the flags."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time

from worker.sim.settings import SimSettings, parse


def main() -> int:
    """Run one worker until it ends; the exit status."""
    try:
        settings = parse(sys.argv[1:], os.environ, time.monotonic())
    except ValueError as exc:
        print(f"ValueError: {exc}", file=sys.stderr)
        return 1
    import uvloop

    return uvloop.run(_run(settings))


async def _run(settings: SimSettings) -> int:
    # Imported here: a usage error should not wait for aiohttp.
    from aiohttp import web

    from worker.sim.api.app import build
    from worker.sim.engine.child import EngineCore
    from worker.sim.errors import ApiError
    from worker.sim.listener import Listener
    from worker.sim.worker import Worker

    listener = Listener(settings.host, settings.port, settings.uds)
    worker = Worker(settings, EngineCore(), listener)
    runner = None
    try:
        worker.start()
        try:
            await _start_up(worker)
        except ApiError as exc:
            print(f"ValueError: {exc.message}", file=sys.stderr)
            return 1
        if worker.draining or worker.engine.dead:
            return 1
        runner = web.AppRunner(
            build(worker),
            access_log=None,
            handler_cancellation=True,
            keepalive_timeout=settings.keep_alive_s,
            handle_signals=False,
            shutdown_timeout=1.0,
        )
        await runner.setup()
        server = runner.server
        assert server is not None
        listener.serve(server, server.pre_shutdown)
        if not worker.faults.get("refuse", time.monotonic()):
            await listener.open()
        with contextlib.suppress(OSError):  # a full disk
            print(f"Starting simulated vLLM server on {listener.where}", file=sys.stderr, flush=True)
        await worker.finished.wait()
        return 0
    finally:
        await worker.close()
        if runner is not None:
            await runner.cleanup()


async def _start_up(worker: object) -> None:
    """Take as long as a model takes to load, and load the adapters of the command line."""
    from worker.sim.worker import Worker

    assert isinstance(worker, Worker)
    if worker.settings.startup_s:
        waits = [asyncio.ensure_future(worker.finished.wait())]
        await asyncio.wait(waits, timeout=worker.settings.startup_s)
        for wait in waits:
            wait.cancel()
    for name, path in worker.settings.lora_modules:
        await worker.adapters.load(name, path)


if __name__ == "__main__":
    sys.exit(main())
