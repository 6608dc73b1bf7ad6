"""``python -m worker.llamacpp``: one worker. See `worker.llamacpp.settings` for the flags."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys

from worker.engines import key_guard
from worker.gguf import header
from worker.gguf.header import NotGguf
from worker.llamacpp import settings


def main() -> int:
    """Run one worker until it ends; the exit status."""
    try:
        given = settings.read(sys.argv[1:], os.environ)
        found = settings.settle(given, os.environ, header.read(given.model))
    except (ValueError, NotGguf, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except argparse.ArgumentError as error:
        print(error, file=sys.stderr)
        return 2
    if found.cores and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):  # cores that this container has no more
            os.sched_setaffinity(0, found.cores)
    os.environ.pop(key_guard.KEY, None)  # llama.cpp has a key of its own
    import uvloop

    return uvloop.run(_run(found, header.read(found.model)))


async def _run(found: settings.LlamaSettings, model: header.GgufHeader) -> int:
    from aiohttp import web

    from worker.llamacpp.app import build
    from worker.llamacpp.engine import LlamaEngine
    from worker.llamacpp.native import CannotStart
    from worker.sim.errors import ApiError

    engine, ended = LlamaEngine(found, model), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    runner = None
    try:
        try:
            await engine.open()
        except (CannotStart, ApiError) as error:
            print(f"llama.cpp does not start: {error}", file=sys.stderr)
            return 1
        runner = web.AppRunner(
            build(engine, engine.native.version), access_log=None, handler_cancellation=True, keepalive_timeout=75,
            handle_signals=False, shutdown_timeout=1.0,
        )  # fmt: skip
        await runner.setup()
        await web.TCPSite(runner, found.host, found.port, backlog=2048).start()
        with contextlib.suppress(OSError):  # a full disk
            print(f"llama.cpp serves {found.model.name} on http://{found.host}:{found.port}: {found.slots} requests at "
                  f"a time, {found.context} tokens each", file=sys.stderr, flush=True)  # fmt: skip
        waits = [asyncio.ensure_future(event.wait()) for event in (ended, engine.failed)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        return 0 if ended.is_set() else 1
    finally:
        if runner is not None:
            await runner.cleanup()
        await engine.close()


if __name__ == "__main__":
    sys.exit(main())
