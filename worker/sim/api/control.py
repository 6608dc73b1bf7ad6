"""The routes only a simulator has: faults at run time, and a look inside."""

from __future__ import annotations

import os
import time

from aiohttp import web

from worker.sim.api.routes import json_response, request_body, worker_of
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
