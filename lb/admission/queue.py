"""Who is let through to a worker now, and who waits: one queue, in the order in which requests came.

A request waits because nobody can take it. That changes with a new backend set, with the end of an ejection, with an
answer, or with room on a full backend: each of them serves the queue once, the oldest first, and wakes those only that
are served. What comes with time alone has a timer at that time.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from lb.protocol.errors import ProxyError, Source
from lb.protocol.tenant import Tenant
from lb.routing.backend import Backend
from lb.routing.pool import Pool
from lb.routing.router import Pinned, Router
from lb.routing.strategies.base import RequestInfo

log = logging.getLogger(__name__)

#: Seconds after which the supervisor is told again that somebody waits for an adapter: it may not have had room.
_WANT_AGAIN = 0.25

#: Seconds by which a timer may be early: its loop reads the clock in whole milliseconds.
_EARLY = 0.001


class Applicant(Protocol):
    """Of one that waits, one of these is called, once, unless it has left."""

    def granted(self, backend: Backend) -> None:
        """A lease is to be taken on it before this returns."""

    def refused(self, error: ProxyError) -> None: ...


@dataclass(slots=True, eq=False)
class Ticket:
    """A place in the queue. ``deadline``: s, monotonic."""

    info: RequestInfo
    excluded: frozenset[str]
    pinned: Pinned | None
    deadline: float
    applicant: Applicant
    timer: asyncio.TimerHandle | None = None


class RequestAdmission(Protocol):
    """What a request needs on its way to a worker."""

    def admit(
        self, tenant: Tenant, info: RequestInfo, excluded: frozenset[str], pinned: Pinned | None, came: float,
        applicant: Applicant,
    ) -> Backend | Ticket:
        """A backend for the request that came then (s, monotonic), or its place among those that wait. ``excluded``
        are asked only if there is nobody else; ``pinned`` is the only one that can answer. Raises ProxyError where
        waiting is of no use."""

    def leave(self, ticket: Ticket) -> None:
        """Its request is over. May be called again, and after it was served."""

    async def wait(
        self, tenant: Tenant, info: RequestInfo, excluded: frozenset[str], came: float
    ) -> Backend:
        """`admit` for those that have something to wait with. Raises ProxyError."""

    def close(self) -> None:
        """Nobody is served any more."""


class WaitingQueue:
    """A `RequestAdmission`, alike for all tenants. ``queued`` counts, by model, who waits (+1, -1); ``want`` is
    told of an adapter that nobody holds and somebody waits for. ``timeout``: how long (s) one waits."""

    def __init__(
        self, router: Router, pool: Pool, queued: Callable[[str | None, int], None], *, timeout: float,
        want: Callable[[str], None], clock: Callable[[], float],
    ) -> None:
        self._router, self._pool, self._queued = router, pool, queued
        self._timeout, self._want, self._clock = timeout, want, clock
        self._waiting: dict[Ticket, None] = {}
        self._serving = False
        self._soon: asyncio.Handle | None = None
        self._later: asyncio.TimerHandle | None = None
        self._later_at = math.inf

    def __len__(self) -> int:
        return len(self._waiting)

    def admit(
        self, tenant: Tenant, info: RequestInfo, excluded: frozenset[str], pinned: Pinned | None, came: float,
        applicant: Applicant,
    ) -> Backend | Ticket:
        if self._waiting:
            self._serve()  # first: whoever came before
        backend = self._router.choose(info, excluded, pinned)
        if backend is not None:
            return backend
        ticket = Ticket(info, excluded, pinned, came + self._timeout, applicant)
        if (error := self._useless(ticket)) is not None:
            raise error
        self._waiting[ticket] = None
        self._queued(info.model, 1)
        self._expire_later(ticket)
        self._look_at(self._next_look(ticket))
        return ticket

    def leave(self, ticket: Ticket) -> None:
        if ticket in self._waiting:
            del self._waiting[ticket]
            self._queued(ticket.info.model, -1)
            if ticket.timer is not None:
                ticket.timer.cancel()

    async def wait(
        self, tenant: Tenant, info: RequestInfo, excluded: frozenset[str], came: float
    ) -> Backend:
        waiter = _Waiter()
        found = self.admit(tenant, info, excluded, None, came, waiter)
        if isinstance(found, Backend):
            return found
        try:
            return await waiter.future
        finally:
            self.leave(found)

    def serve_soon(self) -> None:
        """Something has changed: whoever can be served is, in the next turn of the event loop."""
        if self._waiting and self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self._serve)

    def close(self) -> None:
        for ticket in list(self._waiting):
            self.leave(ticket)
        for handle in (self._soon, self._later):
            if handle is not None:
                handle.cancel()

    def _serve(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        if self._serving:
            return
        self._serving = True
        in_vain: set[tuple[str | None, str | None, Pinned | None]] = set()
        at = math.inf
        try:
            for ticket in list(self._waiting):
                kind = (ticket.info.model, ticket.info.root, ticket.pinned)
                if kind in in_vain or ticket not in self._waiting:
                    continue  # there is nobody for those like it, or it has left
                if not self._try(ticket):
                    in_vain.add(kind)
                    at = min(at, self._next_look(ticket))
        finally:
            self._serving = False
        self._look_at(at, anew=True)

    def _try(self, ticket: Ticket) -> bool:
        """Whether it has been served, or refused."""
        try:
            backend = self._router.choose(ticket.info, ticket.excluded, ticket.pinned)
            error = self._useless(ticket) if backend is None else None
        except ProxyError as reason:
            backend, error = None, reason
        if backend is None and error is None:
            return False
        self.leave(ticket)
        try:
            if backend is not None:
                ticket.applicant.granted(backend)
            elif error is not None:
                ticket.applicant.refused(error)
        except Exception:  # a mistake of ours is an answer too, and nobody else's loss
            log.exception("request in the waiting queue")
            message = "internal error of the balancer; its log has it"
            ticket.applicant.refused(ProxyError(500, message, source=Source.INTERNAL))
        return True

    def _useless(self, ticket: Ticket) -> ProxyError | None:
        """Why it should not wait any longer. Tells the supervisor of an adapter that it waits for."""
        model = ticket.info.model
        if not self._pool.knows(model):
            return self._router.unknown(model)  # unloaded while it waited
        what = f" for model {model}" if model else ""
        if self._pool.hopeless(model):
            message = f"no worker{what}: all of them have failed; see /v1/cluster/status"
            return ProxyError(503, message, source=Source.INTERNAL, retry_after=30)
        if self._clock() >= ticket.deadline:
            message = f"no worker{what} became ready within {self._timeout:g} s"
            return ProxyError(503, message, source=Source.INTERNAL, retry_after=5)
        if model in self._pool.registered:
            self._want(str(model))
        return None

    # timers

    def _expire_later(self, ticket: Ticket) -> None:
        left = max(0.0, ticket.deadline - self._clock()) + _EARLY
        ticket.timer = asyncio.get_running_loop().call_later(left, self._expire, ticket)

    def _expire(self, ticket: Ticket) -> None:
        if ticket in self._waiting and not self._try(ticket):
            self._expire_later(ticket)

    def _next_look(self, ticket: Ticket) -> float:
        """When one like it may be served though nothing has happened, or the supervisor is to hear of it again."""
        info, now = ticket.info, self._clock()
        at = now + _WANT_AGAIN if info.model in self._pool.registered else math.inf
        return min(at, self._pool.free_at(info.model, now, info.root, ticket.pinned))

    def _look_at(self, at: float, *, anew: bool = False) -> None:
        """Serves the queue then, or at the time that was set before if that is earlier. ``anew``: forget that one."""
        if not anew and at >= self._later_at:
            return
        if self._later is not None:
            self._later.cancel()
        self._later, self._later_at = None, at
        if at < math.inf:
            delay = max(0.0, at - self._clock()) + _EARLY
            self._later = asyncio.get_running_loop().call_later(delay, self._serve)


class _Waiter:
    """An `Applicant` that is a task."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Backend] = asyncio.get_running_loop().create_future()

    def granted(self, backend: Backend) -> None:
        if not self.future.done():
            self.future.set_result(backend)

    def refused(self, error: ProxyError) -> None:
        if not self.future.done():
            self.future.set_exception(error)
