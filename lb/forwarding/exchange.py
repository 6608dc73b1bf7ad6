"""One request, from its arrival to the end of its answer: who can take it, wait for one, an attempt, the account of it.

A free worker with an open connection is asked in the very turn of the event loop in which the request came; a task is
made only where something has to be waited for. `docs/decisions/0010` has the why. What follows a failed attempt is in
`lb.forwarding.retry.failover`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from lb.admission.concurrency import FREE
from lb.admission.request_admission import Ticket
from lb.forwarding.attempt import Attempt
from lb.forwarding.collaborators import Collaborators
from lb.forwarding.early_head import EarlyHead
from lb.forwarding.relay import Relay, Relayed
from lb.forwarding.retry.failover import Failover
from lb.forwarding.routed_request import RoutedRequest
from lb.protocol import deadline
from lb.protocol.errors import AttemptFailed, ProxyError, Source, internal_error
from lb.protocol.facts import check_response
from lb.protocol.failures import Failure
from lb.protocol.messages import Downstream, Request
from lb.protocol.routes import Route
from lb.protocol.tenant import ANYBODY
from lb.protocol.usage import TokenUsage
from lb.records.decision_log import Row
from lb.routing.backend import Backend, Lease

log = logging.getLogger(__name__)


class Exchange(Relayed):
    """Implements `lb.protocol.messages.Exchange`. ``over``: it has been accounted for. More methods than a class should
    have: they are what a connection, an attempt, the failover and the queue know of it, a few lines each."""

    # Defaults stand here and not in `__init__`: most requests are over without any of them being set.
    _attempt: Attempt | None = None  # the latest
    _failover: Failover | None = None  # once an attempt has failed
    _task: asyncio.Task[None] | None = None
    _ticket: Ticket | None = None  # while it waits for a worker
    _told: TokenUsage | None = None  # of its usage, while it runs
    over = False

    def __init__(self, parts: Collaborators, client: Downstream, request: Request, route: Route) -> None:
        self._parts, self._client, self._routed = parts, client, RoutedRequest(request, route)

    # from the client

    def start(self) -> None:
        """Raises ProxyError for what no worker is asked."""
        parts, routed = self._parts, self._routed
        response = routed.read(parts)
        try:
            if response is not None:
                check_response(response)
                parts.responses.check_owner(routed.request.tenant.mark, response)
                routed.pinned = parts.responses.known(response)
                if routed.pinned is None:
                    self.run("find a response's worker", lambda: self._find(response))
                    return
            self.place()
        except ProxyError as error:
            self.finish(error.status, str(error), failed=True)
            raise

    def client_gone(self) -> None:
        """Whatever runs for it is stopped."""
        if self.over:
            return
        self._client_left()
        self.finish(499, "the client went away", failed=False)  # nobody's failure

    def cut(self, reason: str) -> None:
        if self.over:
            return
        relay, attempt = self.relay, self._attempt
        if relay is None and self._routed.broken is not None:
            self.stop_waiting()
            relay = self._routed.broken
        if attempt is not None and relay is not None and relay.began:
            self._after_failure().end_cut(attempt, relay, AttemptFailed(reason, Failure.BROKEN))
        else:
            self._client_left()
            self.finish(503, reason, failed=True)
            self._answer_refused(ProxyError(503, reason, source=Source.INTERNAL, retry_after=1))

    def check(self, now: float) -> None:
        """A stream whose worker says nothing at all, or that makes no progress while its client waits for it, is
        taken elsewhere, if there is anywhere."""
        attempt = self._attempt
        if attempt is not None and self._routed.request.tenant is not ANYBODY:
            self._tell_usage()
        if attempt is None or attempt.relay is None or (failure := attempt.overdue(now)) is None:
            return
        attempt.relay.drop()
        if failure.kind is Failure.STALLED:
            self._parts.metrics.stalled.add(attempt.backend.id)
        self.failed(failure)

    @property
    def relay(self) -> Relay | None:
        return None if self._attempt is None else self._attempt.relay

    @property
    def began(self) -> bool:
        return self._routed.broken is not None or self._is_opened or super().began

    @property
    def is_between_chunks(self) -> bool:
        return super().is_between_chunks or (self._is_opened and not super().began)

    @property
    def _is_opened(self) -> bool:
        """Whether the head has gone out before a worker was asked."""
        return self._routed.early is not None and self._routed.early.sent

    # who takes it

    def place(self, avoided: frozenset[str] = frozenset()) -> None:
        """An attempt on whoever is free, or wait for one. Raises ProxyError."""
        routed, failover = self._routed, self._failover
        excluded = avoided if failover is None else avoided | failover.recovery.excluded
        admission, claim = self._parts.admission, routed.claim
        if claim is None:
            claim = routed.claim = admission.claim(routed.request, routed.info.model)
        found = admission.admit(
            claim, routed.info, excluded, routed.pinned, routed.came, self, again=failover is not None
        )  # fmt: skip
        if isinstance(found, Ticket):
            self._ticket = found
            self._parts.choices.shadows.give_up()
            if self._parts.pool.offered:
                self._keep_alive()
        else:
            self.give(found)

    def _keep_alive(self) -> None:
        """While it waits for a model that is not up."""
        routed, absent = self._routed, self._parts.pool.offered.absent(self._routed.info.model)
        if routed.early is not None:
            routed.early.wait()
        elif absent is not None and not self.began and routed.is_stream and EarlyHead.fits(routed.request):
            routed.early = EarlyHead(self._client, routed.request, absent.name)

    def granted(self, backend: Backend) -> None:
        """It has waited for that one. Implements `lb.admission.request_admission.Applicant`."""
        self._waits_no_more()
        self.give(backend)

    def refused(self, error: ProxyError) -> None:
        self._waits_no_more()
        self.refuse(error)

    def _waits_no_more(self) -> None:
        self._ticket = None
        if self._routed.early is not None:
            self._routed.early.stop()

    def patience(self) -> float | None:
        return deadline.of(self._routed.request.head)

    async def _find(self, response: str) -> None:
        """No balancer of this run has made that response; a worker may still know it."""
        self._routed.pinned = await self._parts.responses.search(response)
        self.place()

    def give(self, backend: Backend) -> None:
        recovery = None if self._failover is None else self._failover.recovery
        self._attempt = attempt = Attempt(self._parts, self._routed, self._client, self, backend, recovery)
        attempt.start()

    def run(self, name: str, wait: Callable[[], Awaitable[None]]) -> None:
        """In a task, of which there is one at a time. What is raised becomes an answer: a mistake of ours too, so that
        nobody waits for ever, and nothing stays in flight."""

        async def guarded() -> None:
            try:
                await wait()
            except ProxyError as error:
                self.refuse(error)
            except Exception:
                log.exception("%s %s", self._routed.request.head.method, self._routed.route.path)
                self.refuse(internal_error())

        self._task = self._parts.tasks.start(guarded(), name)

    def stop_waiting(self) -> None:
        if self._ticket is not None:
            self._parts.admission.leave(self._ticket)
            self._waits_no_more()
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    # from the attempt

    def answered(self) -> None:
        attempt, self._attempt, self.over = self._attempt, None, True
        if attempt is not None:
            attempt.relay = None  # it knows the attempt, which is garbage for the collector else
        if self._routed.claim is not FREE:
            self._settle(asked=True)
        self._client.done()

    def completed(self, status: int) -> None:
        attempt = self._attempt
        assert attempt is not None
        if attempt.backend.ejection.until:
            attempt.backend.succeeded()
        routed = self._routed
        self._parts.accounting.completed(attempt.backend, routed.info, status, attempt.began_at, routed.recorder)
        self.finish(status, failed=status >= 500)
        if status == 101:
            self._client.close()
        else:
            self._client.done()

    def failed(self, failure: AttemptFailed) -> None:
        assert self._attempt is not None
        self._after_failure().failed(self._attempt, failure)

    def _after_failure(self) -> Failover:
        if self._failover is None:
            self._failover = Failover(self._parts, self._routed, self._client, self)
        return self._failover

    # its end

    def _settle(self, *, asked: bool) -> None:
        """``asked``: some worker was."""
        routed = self._routed
        claim, recorder, told = routed.claim, routed.recorder, self._told
        if claim is None:
            return
        asked = asked or told is not None
        if (usage := recorder.usage) is not None:
            prompt: int | None = usage.prompt
        else:
            prompt = recorder.prompt if asked else 0
            usage = TokenUsage(prompt or 0, 0, recorder.made)
        self._parts.admission.over(claim, prompt, usage.completion)
        if asked and claim.terms.tenant is not ANYBODY:
            self._parts.accounting.used(claim.terms.tenant.name, routed.info.model, usage, told)

    def _tell_usage(self) -> None:
        """What its stream has made so far: a long one would be lost whole with its balancer."""
        routed = self._routed
        if routed.transcript is None:
            usage = routed.recorder.so_far()
        else:
            usage = routed.transcript.so_far()
        if usage.completion:
            self._parts.accounting.uses(routed.request.tenant, routed.info.model, usage, self._told)
            self._told = usage

    def refuse(self, error: ProxyError) -> None:
        """With an error, or with the end of a stream that had begun."""
        attempt, broken = self._attempt, self._routed.broken
        if attempt is not None and broken is not None:
            self._after_failure().end_broken(attempt, broken, str(error))
            return
        if self._failover is not None:
            self._failover.recovery.record_outcome("failed")
        self.finish(error.status, str(error), failed=True)
        self._answer_refused(error)

    def _answer_refused(self, error: ProxyError) -> None:
        early = self._routed.early
        if early is not None and early.sent:
            early.refuse(error)
        else:
            self._client.refuse(error)

    def _client_left(self) -> None:
        """Stops what runs, and counts it."""
        self.stop_waiting()
        attempt = self._attempt
        if attempt is None:
            return
        if attempt.relay is not None:
            attempt.relay.drop()
        if attempt.lease is not None:
            backend, info, began_at = attempt.backend, self._routed.info, attempt.began_at
            if attempt.relay is not None and attempt.relay.tunnel:
                self._parts.accounting.completed(backend, info, 101, began_at)
            else:
                self._parts.accounting.left(backend, info, began_at)

    def row(self) -> Row:
        """How it has been routed so far."""
        return self._row(None if self._attempt is None else self._attempt.lease)

    def _row(self, lease: Lease | None, status: int = 0, reason: str = "") -> Row:
        """How it was routed on ``lease``, and what became of it if it is over."""
        recorder, now = self._routed.recorder, self._parts.clock() if status else 0.0
        backend = None if lease is None else lease.backend
        began_at = 0.0 if self._attempt is None else self._attempt.began_at
        return self._routed.info, backend, began_at, recorder.began, recorder.first, now, status, recorder.made, reason

    def finish(self, status: int, reason: str = "", *, failed: bool) -> None:
        """Accounts for it, once, on every way out."""
        if self.over:
            return
        self.over = True
        attempt, parts, routed = self._attempt, self._parts, self._routed
        lease = None if attempt is None else attempt.lease
        if attempt is not None:
            attempt.release()  # first: whatever goes wrong with its account, its worker is free again
            attempt.relay = None
        if self._failover is not None:
            self._failover.recovery.leave()
        if not routed.is_read:
            return
        prompt = None if routed.transcript is None else routed.transcript.prompt_tokens
        routed.recorder.end(failed, prompt)
        if routed.claim is not FREE:
            self._settle(asked=attempt is not None)
        row = self._row(lease, status, reason)
        if parts.pool.registered:
            parts.accounting.count_adapter(routed.info.model, failed)
        self._attempt = self._failover = None
        parts.decision_log.over(row, routed.request, routed.recorder, prompt)
