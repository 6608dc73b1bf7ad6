"""Whether a worker answers, for the probe of the pod that it runs in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection

import aiohttp
from aiohttp import web

from worker.spec import WorkerEndpoint

#: How long (s) it may take to.
_ANSWER_S = 2.0


def route(workers: Callable[[], Collection[WorkerEndpoint]]) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Answers whoever asks, as a probe has no key: 200 if there are ``workers`` and all of them answer, else 503."""

    async def ready(request: web.Request) -> web.Response:
        there = workers()
        return web.Response(status=200 if there and all([await _answers(one) for one in there]) else 503)

    return ready


async def _answers(worker: WorkerEndpoint) -> bool:
    """An engine listens to HTTP when it can compute; whoever has no key of it is refused, which is an answer, too."""
    timeout = aiohttp.ClientTimeout(total=_ANSWER_S)
    try:
        async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as http:
            async with http.get(f"{worker.url}/health") as response:
                return response.status < 500
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False
