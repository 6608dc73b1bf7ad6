"""Finds a place for a broken stream, and the request that goes on with it there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from lb.forwarding.resume import continuation
from lb.forwarding.resume.script import Script
from lb.forwarding.retry_budget import Record
from lb.protocol.errors import AttemptFailed, ProxyError, Source
from lb.routing.backend import Backend
from lb.routing.router import Proxy
from lb.routing.strategies.base import RequestInfo

log = logging.getLogger(__name__)

#: Seconds after a worker failed to answer until one is asked again.
_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Move:
    """What ``backend`` is to be asked: ``body``, for the path ``target`` (None: the request's own). Without a body
    there is nothing left to be made but the end."""

    backend: Backend
    body: bytes
    target: bytes | None
    tokens_again: int


async def move(
    proxy: Proxy, info: RequestInfo, script: Script, excluded: frozenset[str], since: float
) -> Move:
    """Waits for a worker that can go on, from the loss of the one before (``since``) on. Raises ProxyError where there
    is none, and CannotResume."""
    while True:
        backend = proxy.choose(info, excluded, None) or await proxy.wait(info, excluded, None, since)
        if script.can_start_over:
            return Move(backend, script.start_over(), None, 0)

        async def read(tokens: Sequence[int], backend: Backend = backend) -> str:
            return await proxy.read_tokens(backend, info.model, tokens)

        lease = backend.lease(_unheard)  # it counts as asked, so that it is found if it stands still
        try:
            script.settle(await proxy.render(backend, script.path, script.body))
            point = await script.point(read)
        except AttemptFailed as failure:
            # It was lost while it was asked: the supervisor's word is on its way. Meanwhile another may be asked.
            excluded |= {backend.id}
            if proxy.clock() > since + proxy.queue_timeout:
                raise ProxyError(502, f"no worker could go on with it: {failure}", source=Source.UPSTREAM) from None
            await asyncio.sleep(_PAUSE_S)
            continue
        finally:
            lease.release()
        gone = proxy.pool.backends.get(backend.id) is not backend
        if gone or not backend.keeps_running() or backend.ejection.active(proxy.clock()):
            continue
        again = len(script.tokens()) - point.kept
        return Move(backend, script.go_on(point, backend.longest()), continuation.PATH, again)


def _unheard(reason: str) -> None:
    """A worker that is lost closes the connection on which it was asked."""


async def refuse_poison(proxy: Proxy, record: Record, request: str) -> None:
    """Raises ProxyError (500) for a request that so many workers have died of that no other is given it."""
    if await proxy.has_killed(record):
        proxy.metrics.poisonous()
        log.error("request %s is not given to another worker: %d have died of it", request, len(record))
        message = f"{len(record)} workers have died while they worked on this request; it is not given to another one"
        raise ProxyError(500, message, source=Source.UPSTREAM)
