"""Who is let through to a worker now, and who waits: one queue, in the order of `lb.admission.fair_order`.

A request waits because nobody can take it, or because as many run as may. That changes with a new backend set, with the
end of an ejection, with an answer, or with room on a full backend: each of them serves the queue once, in order, and
wakes those only that are served. What comes with time alone has a timer at that time.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
from collections.abc import Callable, Hashable, Iterable

from config.identity.api_keys import Priority
from lb.admission.concurrency import FREE, AllTerms, Claim, Concurrency
from lb.admission.fair_order import FairOrder, Means, ServeResult
from lb.admission.rate_limits import BYTES_A_TOKEN, RateLimits, TenantRates
from lb.admission.request_admission import Applicant, QueueLimits, QueueMetrics, Ticket, Wants
from lb.admission.wait_rules import WaitRules
from lb.protocol.errors import ProxyError, internal_error
from lb.protocol.messages import Request
from lb.protocol.tenant import ANYBODY, Tenant
from lb.routing.backend import Backend
from lb.routing.pool import Pool
from lb.routing.router import Pinned, Router
from lb.routing.strategies.base import QueueStay, RequestInfo

log = logging.getLogger(__name__)

#: Seconds by which a timer may be early: its loop reads the clock in whole milliseconds.
_EARLY = 0.001

#: How much the latest answer counts in what one of a tenant is expected to be, and tenants that this is kept for.
_NEWEST, _MOST_TENANTS = 0.1, 4_096

#: Requests that are settled at once, where a turn of the event loop takes so long.
_MOST_OVER = 64


class WaitingQueue:
    """A `RequestAdmission`. ``wants`` is told of what nobody holds and somebody waits for.

    More methods than a class should have: order, waits, rates and seats are decided elsewhere, but a request that
    comes, leaves or gets a seat changes all of what is waiting here, in one turn."""

    def __init__(
        self, router: Router, pool: Pool, metrics: QueueMetrics, concurrency: Concurrency, limits: QueueLimits, *,
        wants: Wants, clock: Callable[[], float], rates: RateLimits | None = None,
    ) -> None:
        self._terms = AllTerms(concurrency, rates or RateLimits(clock))
        self._router, self._pool, self._metrics, self._concurrency = router, pool, metrics, concurrency
        self._limits, self._clock = limits, clock
        self._rules = WaitRules(router, pool, concurrency, limits, wants, clock)
        self._is_unlimited = not concurrency.limits.any
        self._order: FairOrder[Ticket] = FairOrder()
        self._waiting: dict[Ticket, None] = {}
        self._expected: dict[str, float] = {}  # tokens of an answer, by tenant
        #: Those that are over and not settled: what each was charged at its rates and in the queue, and its tokens.
        self._over: list[tuple[Claim, int | None, float, int | None, int]] = []
        self._settling: asyncio.Handle | None = None
        self._serving = self._look_at_all = False
        self._soon: asyncio.Handle | None = None
        self._later: asyncio.TimerHandle | None = None
        self._later_at = math.inf

    def __len__(self) -> int:
        return len(self._waiting)

    def waiting(self) -> Iterable[Ticket]:
        """Those that do, not to be kept."""
        return self._waiting.keys()

    def for_want_of_room(self) -> int:
        """How many wait that more workers could take: not those of keys or models of which as many run as may."""
        return self._order.count(self._could_run) if self._waiting and not self._concurrency.spent() else 0

    def _could_run(self, tenant: Tenant, kind: Hashable) -> bool:
        assert isinstance(kind, tuple)
        return self._concurrency.free(self._terms[tenant, kind[0]])

    def claim(self, request: Request, model: str | None) -> Claim:
        tenant = request.tenant
        priority = Priority.LOW if request.head.background else tenant.priority
        if tenant is ANYBODY and self._is_unlimited and priority is Priority.NORMAL:
            return FREE
        length, terms = request.prompt_bytes, self._terms[tenant, model]
        claim = Claim(terms, 1.0 + length / BYTES_A_TOKEN + self._expected.get(tenant.name, 0.0))
        if priority is not Priority.NORMAL:
            claim.priority = priority
        if terms.rates is not None:
            charge = terms.rates.take(length)
            claim.charge = charge.tokens
            request.told += charge.told
        return claim

    def admit(
        self, claim: Claim, info: RequestInfo, excluded: frozenset[str], pinned: Pinned | None, came: float,
        applicant: Applicant, *, again: bool = False,
    ) -> Backend | Ticket:
        if self._waiting:
            self._serve()  # first: whoever came before
        if claim is FREE or claim.running or self._concurrency.free(claim.terms):
            backend = self._router.choose(info, excluded, pinned)
            if backend is not None and (claim is FREE or self._concurrency.begin(claim)):
                if self._waiting and claim is not FREE and not claim.charged:
                    self._charge(claim)
                return backend
        patience = applicant.patience()
        deadline = math.inf if patience is None else came + patience
        ticket = Ticket(claim, info, excluded, pinned, came, deadline, applicant, again)
        ticket.alone_since = came
        if (error := self._rules.useless(ticket) or self._rules.overdue(ticket) or self._full(ticket)) is not None:
            raise error
        self._waiting[ticket] = None
        self._order.add(ticket)
        absent = self._pool.offered.absent(info.model)
        name = None if absent is None else absent.name
        info.stays += (QueueStay(self._clock(), *self._order.before(ticket), name),)
        self._metrics.queued(info.first_name or info.model, 1)
        self._expire_later(ticket)
        self._look_at(self._rules.next_look(ticket))
        return ticket

    def leave(self, ticket: Ticket) -> None:
        if self._remove(ticket):
            self._metrics.dropped(ticket.tenant.name, "left")

    def over(self, claim: Claim, prompt: int | None, made: int) -> None:
        if claim is FREE:
            return
        if claim.running:
            self._concurrency.end(claim)
            if self._waiting:
                self.serve_soon(room=True)
        if made or claim.charge is not None or claim.charged:
            self._over.append((claim, claim.charge, claim.charged, prompt, made))
            claim.charge, claim.charged = None, 0.0
            if len(self._over) >= _MOST_OVER:
                self._settle()
            elif self._settling is None:
                self._settling = asyncio.get_running_loop().call_soon(self._settle)

    def _settle(self) -> None:
        """What those took that are over: all of a turn of the event loop at once, so that what is shared with other
        processes is written once."""
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        over, self._over, expected = self._over, [], self._expected
        changes: dict[TenantRates, int] = {}
        for claim, charge, charged, prompt, made in over:
            tenant, rates = claim.terms.tenant, claim.terms.rates
            if charge is not None and rates is not None:
                changes[rates] = changes.get(rates, 0) + (made if prompt is None else prompt + made - charge)
            if made:
                before = expected.get(tenant.name)
                if before is None:
                    if len(expected) >= _MOST_TENANTS:
                        expected.clear()
                    before = float(made)
                expected[tenant.name] = before + _NEWEST * (made - before)
            if charged:
                asked = claim.cost - expected.get(tenant.name, 0.0) if prompt is None else prompt
                self._order.charge(tenant, claim.priority, max(0.0, asked) + made - charged)
        for rates, change in changes.items():
            rates.settle(change)

    async def wait(
        self, claim: Claim, info: RequestInfo, excluded: frozenset[str], came: float
    ) -> Backend:
        waiter = _WaitingTask()
        found = self.admit(claim, info, excluded, None, came, waiter, again=True)
        if isinstance(found, Backend):
            return found
        try:
            return await waiter.future
        finally:
            self.leave(found)

    def serve_soon(self, *, room: bool = False) -> None:
        """Something has changed: whoever can be served is, in the next turn of the event loop. ``room``: no more than
        that there may be some, so that nobody need be looked at when that is taken."""
        self._look_at_all |= not room
        if self._waiting and self._soon is None:
            self._soon = asyncio.get_running_loop().call_soon(self._serve)

    def close(self) -> None:
        self._settle()
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
        if self._over:
            self._settle()  # first: who was served how much decides
        self._serving, everybody, self._look_at_all = True, self._look_at_all, False
        at: list[float] = [math.inf]
        room = (lambda: True) if everybody else self._has_room
        try:
            self._order.serve(Means(functools.partial(self._turn, at), room, self._concurrency.blocked, self._ready))
        finally:
            self._serving = False
        self._look_at(min(at), anew=everybody)

    def _ready(self, kind: Hashable) -> bool:
        """Whether a worker with room needs no other adapter slot for it than those that are taken or free."""
        assert isinstance(kind, tuple)
        model, now = kind[0], self._clock()
        return any(b.has_slot_for(model) and b.available(now) for b in self._pool.serving(model))

    def _has_room(self) -> bool:
        now = self._clock()
        return not self._concurrency.spent() and any(b.available(now) for b in self._pool.backends.values())

    def _turn(self, at: list[float], ticket: Ticket) -> ServeResult:
        turn = self._try(ticket)
        if turn is ServeResult.IN_VAIN:
            at.append(self._rules.next_look(ticket))
        return turn

    def _try(self, ticket: Ticket) -> ServeResult:
        backend, error, claim = None, None, ticket.claim
        try:
            if self._clock() < ticket.deadline and (
                claim is FREE or claim.running or self._concurrency.free(claim.terms)
            ):
                backend = self._router.choose(ticket.info, ticket.excluded, ticket.pinned)
            if backend is not None and claim is not FREE and not self._concurrency.begin(claim):
                backend = None
            error = self._rules.useless(ticket) if backend is None else None
        except ProxyError as reason:
            backend, error = None, reason
        if backend is None and error is None:
            return ServeResult.IN_VAIN
        self._remove(ticket)
        try:
            if backend is not None:
                if claim is not FREE and not claim.charged:
                    claim.charged = claim.cost
                self._metrics.waited(ticket.tenant.name, self._clock() - ticket.came, ticket.info.stays[-1].absent)
                ticket.applicant.granted(backend)
            elif error is not None:
                self._metrics.dropped(ticket.tenant.name, _reason(error))
                ticket.applicant.refused(error)
        except Exception:  # a mistake of ours is an answer too, and nobody else's loss
            log.exception("request in the waiting queue")
            ticket.applicant.refused(internal_error())
        return ServeResult.SERVED if backend is not None else ServeResult.GONE

    def _full(self, ticket: Ticket) -> ProxyError | None:
        """Why there is no place for it, if there is none. In a full queue the longest line gives one up."""
        if len(self._waiting) < self._limits.most:
            return None
        victim = self._order.surplus(ticket)
        if victim is None:
            return self._rules.no_place(ticket)
        self._remove(victim)
        self._metrics.dropped(victim.tenant.name, "full")
        victim.applicant.refused(self._rules.no_place(victim))
        return None

    def _charge(self, claim: Claim) -> None:
        claim.charged = claim.cost
        self._order.charge(claim.tenant, claim.priority, claim.cost)

    def _remove(self, ticket: Ticket) -> bool:
        """Whether it was there."""
        if ticket not in self._waiting:
            return False
        del self._waiting[ticket]
        ticket.info.stays[-1].until = self._clock()
        self._order.discard(ticket)
        self._metrics.queued(ticket.info.first_name or ticket.info.model, -1)
        if ticket.timer is not None:
            ticket.timer.cancel()
        return True

    # timers

    def _expire_later(self, ticket: Ticket) -> None:
        delay = self._rules.ends_at(ticket) - self._clock() + _EARLY
        ticket.timer = asyncio.get_running_loop().call_later(delay, self._expire, ticket)

    def _expire(self, ticket: Ticket) -> None:
        if ticket not in self._waiting or self._try(ticket) is not ServeResult.IN_VAIN:
            return
        if (error := self._rules.overdue(ticket)) is None:
            self._expire_later(ticket)
            return
        self._remove(ticket)
        self._metrics.dropped(ticket.tenant.name, "timeout")
        ticket.applicant.refused(error)

    def _look_at(self, at: float, *, anew: bool = False) -> None:
        """Serves the queue then, or at the time that was set before if that is earlier. ``anew``: forget that one."""
        if not anew and at >= self._later_at:
            return
        if self._later is not None:
            self._later.cancel()
        self._later, self._later_at = None, at
        if at < math.inf:
            delay = max(0.0, at - self._clock()) + _EARLY
            self._later = asyncio.get_running_loop().call_later(delay, self._look)

    def _look(self) -> None:
        self._look_at_all = True
        self._serve()


def _reason(error: ProxyError) -> str:
    return "deadline" if error.status == 504 else "refused"


class _WaitingTask:
    """An `Applicant` that is a task."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Backend] = asyncio.get_running_loop().create_future()

    def granted(self, backend: Backend) -> None:
        if not self.future.done():
            self.future.set_result(backend)

    def refused(self, error: ProxyError) -> None:
        if not self.future.done():
            self.future.set_exception(error)

    def patience(self) -> None:
        return None
