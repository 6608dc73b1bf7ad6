"""One request after its first failure: what it lost, where it must not go again, and whether it may go on."""

from __future__ import annotations

import asyncio

from lb.admission.concurrency import Claim
from lb.forwarding.collaborators import Collaborators
from lb.forwarding.resume.followed import FollowedStream
from lb.forwarding.resume.mover import Move, move, move_followed
from lb.forwarding.resume.resumption import Resumption
from lb.forwarding.resume.transcript import StreamTranscript
from lb.forwarding.retry.poison import MOST_DEATHS, Record
from lb.protocol.errors import AttemptFailed, ProxyError, Source
from lb.protocol.failures import Failure
from lb.routing.backend import Backend
from lb.routing.strategies.base import RequestInfo

#: Seconds from the death of an engine until a request that may be what killed it is given to another worker. What has
#: killed that engine may be killing others just now, whatever their requests: those would be held against it.
_SETTLED_S = 1.5

#: Seconds between two looks whether the retry budget has room.
_BUDGET_EVERY = 0.02

_DEATHS = frozenset({Failure.ENGINE_DIED, Failure.EVICTED})


class Recovery:
    """Of the request ``info`` that came then (s, monotonic). ``excluded``: the workers that it is not given to again;
    ``retries``: how often it was made again whole."""

    def __init__(self, parts: Collaborators, info: RequestInfo, came: float) -> None:
        self._parts, self._info, self._came = parts, info, came
        self._record = Record()
        self._lost_on: tuple[str, int] | None = None  # the incarnation it was lost with, until that has been told
        self._consecutive_empty_attempts = 0  # in a row that took its stream and made nothing of it
        self._losses = 0  # workers that were lost while they made something of it
        self._settled = 0.0  # when it may go to another worker
        self._lost: float | None = None  # when its stream lost its worker
        self._resumption: Resumption | None = None  # of its stream, once that is moved
        self._budgeted = False
        self.excluded: frozenset[str] = frozenset()
        self._stale: frozenset[str] = frozenset()
        self.retries = 0

    # what has happened

    def lost_on(self, backend: Backend) -> None:
        """It was under way on that worker."""
        self._lost_on = (backend.id, backend.spec.incarnation)

    def record_outcome(self, what: str) -> None:
        """What became of it after it lost its worker, for the supervisor's sentence about that: ``moved``, ``retried``
        or ``failed``."""
        if self._lost_on is not None:
            lost_on, self._lost_on = self._lost_on, None
            getattr(self._parts.losses, what)(*lost_on, self._parts.clock())

    def suspect(self, backend: Backend, failure: AttemptFailed) -> None:
        """It may have been what killed that worker."""
        self._record.failed((backend.id, backend.spec.incarnation))
        if failure.kind in _DEATHS:
            self._settled = self._parts.clock() + _SETTLED_S

    @property
    def may_have_killed(self) -> bool:
        """Whether a worker died, or closed a connection, under it."""
        return bool(self._record)

    @property
    def is_suspect(self) -> bool:
        """Of so many deaths that the supervisor's word has to be heard before it is given to another worker."""
        return len(self._record) >= MOST_DEATHS

    def exclude(self, backend: Backend, *, stale: bool = False) -> None:
        """``stale``: a connection there was no good any more, the worker itself may be."""
        self.excluded |= {backend.id}
        self._stale = self._stale | {backend.id} if stale else self._stale - {backend.id}

    # where it is

    def enter(self, backend: Backend) -> None:
        """It is given to that worker."""
        self._record.enter(backend)

    def leave(self) -> None:
        """It got something there, or is not there any more. May be called again."""
        self._record.leave()
        if self._budgeted:
            self._budgeted = False
            self._parts.budget.give_back()

    # what it may do

    async def allow_retry(self, failure: AttemptFailed) -> None:
        """It may be made again whole, on another worker. Raises ProxyError if not: it is poison, or there are too many
        that are being made again."""
        parts, follows = self._parts, failure.follows
        await parts.poison.check(self._record, self._info.id)
        await self._settle()
        if not follows.sent:
            return
        if follows.counts:  # else nobody does the work that it was: no more is asked of the cluster than before
            self.retries += 1
            if not await self._takes_budget():
                message = "an attempt failed, and too many requests are being made again already"
                raise ProxyError(503, message, source=Source.INTERNAL, retry_after=5)
            self._budgeted = True
        parts.metrics.retried.add(follows.cause)
        self.record_outcome("retried")

    async def _takes_budget(self) -> bool:
        """Waits until the retry budget has room, as long as the request may wait; False: it has none."""
        parts = self._parts
        while not parts.budget.take(parts.clock()):
            if parts.clock() >= self._came + parts.settings.queue_timeout:
                parts.metrics.over_budget.add()
                return False
            await asyncio.sleep(_BUDGET_EVERY)
        return True

    async def _settle(self) -> None:
        if (left := self._settled - self._parts.clock()) > 0:
            await asyncio.sleep(left)

    async def apart(self) -> frozenset[str]:
        """The workers to avoid besides. Rather than beside another suspect it is given to one again that had closed no
        more than a connection."""
        parts, info = self._parts, self._info
        avoided = await parts.poison.apart(info, self.excluded, self.excluded - self._stale, self._record)
        if avoided and not parts.pool.candidates(info.model, self.excluded | avoided, parts.clock(), info.root):
            self.excluded -= self._stale
        return avoided

    def hindrance(self, transcript: StreamTranscript | FollowedStream, failure: AttemptFailed) -> str:
        """Why its stream, which has begun, cannot go on elsewhere; empty if it can."""
        if not transcript.can_start_over and (why := transcript.hindrance()):
            return f"it cannot be continued: {why}"
        limit, follows = self._parts.settings.migration_limit, failure.follows
        if follows.sent and follows.counts and max(transcript.moves, self._consecutive_empty_attempts) >= limit:
            return f"it was moved {transcript.moves} times before"
        if follows.sent and not follows.counts and self._losses >= limit:
            return f"{self._losses} workers were lost under it before"
        return ""

    def leave_for_another(
        self, transcript: StreamTranscript | FollowedStream, backend: Backend, failure: AttemptFailed
    ) -> None:
        """Its stream is to be moved away from ``backend``."""
        # A worker that took it and made nothing of it has not been moved to. Deaths are counted apart from moves: they
        # are hardly ever a stream's fault, but one that kills whoever makes tokens for it has to end.
        follows = failure.follows
        if transcript.made_here:
            transcript.moves += follows.counts
            self._losses += not follows.counts
            self._consecutive_empty_attempts = 0
        elif follows.counts:
            self._consecutive_empty_attempts += 1
        else:
            self._losses += transcript.started
        self.exclude(backend)
        if transcript.made_here or self._lost is None:
            self._lost = self._parts.clock()

    async def move(self, transcript: StreamTranscript | FollowedStream, claim: Claim) -> Move:
        """Where the stream of ``claim`` goes on. Raises ProxyError and CannotResume."""
        since = self._parts.clock() if self._lost is None else self._lost
        await self._parts.poison.check(self._record, self._info.id)
        await self._settle()
        excluded = await self.apart() | self.excluded
        if isinstance(transcript, FollowedStream):
            return await move_followed(self._parts, claim, self._info, transcript, excluded, since)
        if self._resumption is None:
            self._resumption = Resumption(transcript)
        return await move(self._parts, claim, self._info, self._resumption, excluded, since)
