"""The routes only a simulator has (faults at run time, and a look inside), and those of vLLM's development mode."""

from __future__ import annotations

import os
import time

from aiohttp import web

from worker.sim.api.routes import json_response, request_body, worker_of
from worker.sim.errors import ApiError
from worker.sim.faults import parse


async def set_fault(request: web.Request) -> web.Response:
    """POST /sim/fault: switch a fault on; the answer goes out before it acts."""
    worker = worker_of(request)
    now = time.monotonic()
    fault = parse(await request_body(request), now)
    response = json_response(fault.as_json(now))
    await response.prepare(request)
    await response.write_eof()
    worker.put_fault(fault)
    return response


async def clear_faults(request: web.Request) -> web.Response:
    """DELETE /sim/fault: switch all off, or ``?kind=`` only."""
    await worker_of(request).clear_faults(request.query.get("kind"))
    return json_response({})


async def seats(request: web.Request) -> web.Response:
    """As the guard of a real worker answers (`worker.engines.key_guard`)."""
    return json_response({"seats": worker_of(request).settings.max_num_seqs})


async def sleep(request: web.Request) -> web.Response:
    """POST /sleep?level=: at once, as nothing is being computed where we call it."""
    level = request.query.get("level", "1")
    if level not in ("0", "1", "2"):
        raise ApiError(f"level must be 0, 1 or 2, got {level!r}", param="level")
    worker_of(request).sleep()
    return json_response({"status": "sleeping", "level": int(level)})


async def wake_up(request: web.Request) -> web.Response:
    """POST /wake_up."""
    worker_of(request).wake()
    return json_response({"status": "awake", "tags": None})


async def is_sleeping(request: web.Request) -> web.Response:
    """GET /is_sleeping."""
    return json_response({"is_sleeping": worker_of(request).asleep})


async def state(request: web.Request) -> web.Response:
    """GET /sim/state: pids, the batch, and the active faults."""
    worker = worker_of(request)
    now = time.monotonic()
    return json_response(
        {
            "pid": os.getpid(),
            "engine_core_pid": worker.core.pid,
            **worker.engine.counts(),
            "draining": worker.draining,
            "faults": [fault.as_json(now) for fault in worker.faults.active(now)],
        }
    )
