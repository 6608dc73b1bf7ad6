"""Whether a request is to wait any longer, and when that is to be asked again. Pure.

Of a request that waits because nobody can take it, or because as many run as may: `lb.admission.queue` goes by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from lb.admission.concurrency import Concurrency
from lb.admission.request_admission import QueueLimits, Ticket, Wants
from lb.protocol.errors import ProxyError, Source
from lb.routing.pool import Pool
from lb.routing.router import Router

#: Seconds after which the supervisor is told again that somebody waits for an adapter: it may not have had room.
_WANT_AGAIN = 0.25

#: The same of a model: it is heard that somebody still waits for it.
_WANT_MODEL_AGAIN = 1.0

#: Seconds until a worker is looked at again that requests through other balancers may be ending on: of those nobody is
#: told.
_OTHERS_MAKE_ROOM = 0.02


class WaitRules:
    """``wants`` is told of what nobody holds and somebody waits for; ``clock``: s, monotonic."""

    def __init__(
        self, router: Router, pool: Pool, concurrency: Concurrency, limits: QueueLimits, wants: Wants,
        clock: Callable[[], float],
    ) -> None:
        self._router, self._pool, self._concurrency = router, pool, concurrency
        self._limits, self._wants, self._clock = limits, wants, clock

    def useless(self, ticket: Ticket) -> ProxyError | None:
        """Why it should not wait at all. Tells the supervisor what it waits for."""
        model = ticket.info.model
        if not self._pool.knows(model):
            return self._router.unknown(model, ticket.claim.tenant.models)  # unloaded while it waited
        if self._pool.hopeless(model):
            message = f"no worker{_of(model)}: all of them have failed; see /v1/cluster/status"
            return ProxyError(503, message, source=Source.INTERNAL, retry_after=30)
        if self._clock() >= ticket.deadline:
            return ProxyError(504, "the time that X-Request-Timeout gave it has passed", source=Source.INTERNAL)
        absent = self._pool.offered.absent(model)
        if absent is None:
            if model in self._pool.registered:
                self._wants.want(str(model))
        elif absent.state != "failed":
            self._wants.want_model(absent.name)
        elif (left := absent.retry_at - self._limits.wall()) > 0:
            message = f"model {absent.name} cannot be started: {absent.why}"
            return ProxyError(503, message, source=Source.INTERNAL, retry_after=math.ceil(left))
        else:
            self._wants.want_model(absent.name)
        return None

    def overdue(self, ticket: Ticket) -> ProxyError | None:
        """Why it has waited long enough, if it has."""
        now, model, limits = self._clock(), ticket.info.model, self._limits
        if self._is_there(ticket, now):
            ticket.alone_since = math.inf
            if now < ticket.came + max(self._timeout(ticket), limits.patience):
                return None
            message = f"no worker{_of(model)} had room within {limits.patience:g} s"
            return ProxyError(503, message, source=Source.INTERNAL, retry_after=5)
        ticket.alone_since, timeout = min(ticket.alone_since, now), self._timeout(ticket)
        if now < ticket.alone_since + timeout:
            return None
        message = f"no worker{_of(model)} became ready within {timeout:g} s"
        return ProxyError(503, message, source=Source.INTERNAL, retry_after=5)

    def _timeout(self, ticket: Ticket) -> float:
        """How long (s) it waits for a worker to be there: one that has to be started first takes its time."""
        absent = self._pool.offered.absent(ticket.info.model)
        return self._limits.timeout if absent is None else absent.wait

    def _is_there(self, ticket: Ticket, now: float) -> bool:
        """Whether somebody could take it who only has no room, or may not have more of its kind."""
        if ticket.pinned is not None:
            backend = self._pool.backends.get(ticket.pinned[0])
            return backend is not None and backend.answers_still(now)
        model = ticket.info.model
        return any(b.in_rotation(now) and not b.is_missing(model, now) for b in self._pool.serving(model))

    def no_place(self, ticket: Ticket) -> ProxyError:
        if self._concurrency.blocked(ticket.tenant):
            most = ticket.tenant.max_concurrent
            message = f"{most} requests of this key run already, and as many wait as may"
            return ProxyError(429, message, code="rate_limit_exceeded", retry_after=1)
        message = f"{self._limits.most} requests wait already, of this key more than of others"
        return ProxyError(503, message, source=Source.INTERNAL, retry_after=1)

    def ends_at(self, ticket: Ticket) -> float:
        """When it may have waited long enough (s, monotonic)."""
        now, limits, timeout = self._clock(), self._limits, self._timeout(ticket)
        ends = ticket.came + timeout, ticket.came + limits.patience, ticket.deadline
        at = min((end for end in ends if end > now), default=now + timeout)
        if ticket.alone_since < math.inf:
            at = min(at, max(now, ticket.alone_since + timeout))
        return at

    def next_look(self, ticket: Ticket) -> float:
        """When one like it may be served though nothing has happened, or the supervisor is to hear of it again."""
        info, now = ticket.info, self._clock()
        at = now + _WANT_AGAIN if info.model in self._pool.registered else math.inf
        if self._pool.offered.absent(info.model) is not None:
            at = now + _WANT_MODEL_AGAIN
        if any(b.full and b.is_shared and b.in_rotation(now) for b in self._pool.serving(info.model)):
            at = min(at, now + _OTHERS_MAKE_ROOM)
        return min(at, self._pool.free_at(info.model, now, info.root, ticket.pinned))


def _of(model: str | None) -> str:
    return f" for model {model}" if model else ""
