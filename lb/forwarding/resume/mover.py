"""Finds a place for a broken stream, and the request that goes on with it there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from lb.admission.concurrency import Claim
from lb.forwarding.collaborators import Collaborators
from lb.forwarding.resume import continuation
from lb.forwarding.resume.followed import FollowedStream, Way
from lb.forwarding.resume.point import CannotResume
from lb.forwarding.resume.resumption import Resumption
from lb.protocol.errors import AttemptFailed, ProxyError, Source
from lb.routing.backend import Backend
from lb.routing.strategies.base import RequestInfo

#: Seconds after a worker failed to answer until one is asked again.
_PAUSE_S = 0.05

#: Seconds for a worker to say how it takes a request: it reads all of the prompt for that.
_RENDER_S = 10.0


@dataclass(frozen=True, slots=True)
class Move:
    """What ``backend`` is to be asked: ``body``, for the path ``target`` (None: the request's own). Without a body
    there is nothing left to be made but the end."""

    backend: Backend
    body: bytes
    target: bytes | None
    tokens_again: int
    way: Way


async def move(
    parts: Collaborators, claim: Claim, info: RequestInfo, resumption: Resumption, excluded: frozenset[str],
    since: float,
) -> Move:
    """Waits for a worker that can go on, from the loss of the one before (``since``) on. Raises ProxyError where there
    is none, and CannotResume."""
    transcript, plan = resumption.transcript, resumption.transcript.plan
    patience = min(_RENDER_S, parts.settings.stall_timeout)  # no stream is stalled longer where another place is free
    while True:
        backend = await parts.admission.wait(claim, info, excluded, since)
        if transcript.can_start_over:
            return Move(backend, transcript.start_over(), None, 0, Way.AGAIN)
        able = backend.spec.capabilities
        if not (able.token_ids and able.detokenize):
            if backend.id in excluded:  # all have been looked at
                raise CannotResume("no engine here goes on from tokens")
            excluded |= {backend.id}
            continue

        async def read(tokens: Sequence[int], backend: Backend = backend) -> str:
            return await parts.client.detokenize(backend.spec, info.model, tokens)

        lease = backend.lease(_unheard)  # it counts as asked, so that it is found if it makes no progress
        try:
            plan.settle(await parts.client.render(backend.spec, plan.path, plan.sent, patience))
            point = await resumption.point(read)
        except AttemptFailed as failure:
            # It was lost while it was asked: the supervisor's word is on its way. Meanwhile another may be asked.
            excluded |= {backend.id}
            if parts.clock() > since + parts.settings.queue_timeout:
                raise ProxyError(502, f"no worker could go on with it: {failure}", source=Source.UPSTREAM) from None
            await asyncio.sleep(_PAUSE_S)
            continue
        finally:
            lease.release()
        gone = parts.pool.backends.get(backend.id) is not backend
        if gone or not backend.keeps_running() or backend.ejection.active(parts.clock()):
            continue
        again = len(transcript.tokens.all()) - point.kept
        return Move(backend, resumption.go_on(point, backend.longest()), continuation.PATH, again, Way.TOKENS)


async def move_followed(
    parts: Collaborators, claim: Claim, info: RequestInfo, stream: FollowedStream, excluded: frozenset[str],
    since: float,
) -> Move:
    """The same of a stream that is made again whole."""
    while True:
        backend = await parts.admission.wait(claim, info, excluded, since)
        spec = backend.spec
        if (way := stream.way(spec.capabilities)) is not None:
            again = 0 if way is Way.AGAIN else stream.count()
            return Move(backend, stream.again(way, named=spec.managed), None, again, way)
        if backend.id in excluded:  # all have been looked at
            raise CannotResume("no engine here makes its tokens again, and a sample is not made twice")
        excluded |= {backend.id}


def _unheard(reason: str) -> None:
    """A worker that is lost closes the connection on which it was asked."""
