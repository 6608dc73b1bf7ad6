"""What follows the failure of an attempt, as `lb.forwarding.retry.failure_policy` says: once more, elsewhere, or the
end."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from config.logs import fields
from lb.forwarding.attempt import Attempt
from lb.forwarding.collaborators import Collaborators
from lb.forwarding.relay import Relay
from lb.forwarding.resume.followed import FollowedStream, Way
from lb.forwarding.resume.point import CannotResume
from lb.forwarding.resume.relay import StreamRelay
from lb.forwarding.resume.transcript import StreamTranscript
from lb.forwarding.retry import failure_policy
from lb.forwarding.retry.failure_policy import Action, Break, Loss
from lb.forwarding.retry.recovery import Recovery
from lb.forwarding.routed_request import RoutedRequest
from lb.protocol import error_shapes
from lb.protocol.errors import AttemptFailed, ProxyError, Source
from lb.protocol.failures import Failure
from lb.protocol.messages import Downstream
from lb.records.decision_log import Step
from lb.routing.backend import Backend

log = logging.getLogger(__name__)

#: Seconds for which a worker is not asked again for an adapter that it answered 404 for.
_MISSING_MODEL_S = 0.3


class Owner(Protocol):
    """The request's exchange."""

    @property
    def began(self) -> bool: ...
    def place(self, avoided: frozenset[str] = frozenset()) -> None: ...
    def give(self, backend: Backend) -> None: ...
    def run(self, name: str, wait: Callable[[], Awaitable[None]]) -> None: ...
    def refuse(self, error: ProxyError) -> None: ...
    def completed(self, status: int) -> None: ...
    def finish(self, status: int, reason: str = "", *, failed: bool) -> None: ...


class Failover:
    """Of one request, from its first failure on."""

    def __init__(self, parts: Collaborators, routed: RoutedRequest, client: Downstream, owner: Owner) -> None:
        self._parts, self._routed, self._client, self._owner = parts, routed, client, owner
        self.recovery = Recovery(parts, routed.info, routed.came)

    def failed(self, attempt: Attempt, failure: AttemptFailed) -> None:
        """Again, elsewhere, or an answer that says so."""
        action = failure_policy.on_break(self._break(attempt, failure))
        if action is Action.END_TUNNEL:
            self._owner.completed(101)
        elif action is Action.RECONNECT:
            self._suspect(attempt.backend, failure)
            attempt.reconnect()
        elif action is Action.END_AS_TOLD:
            self._end_as_told(attempt, failure)
        else:
            if action is Action.FAIL_AS_BROKEN:
                failure = AttemptFailed(str(failure), Failure.BROKEN)
            self._go_on(attempt, self._count(attempt, failure))

    def _break(self, attempt: Attempt, failure: AttemptFailed) -> Break:
        relay, stale = attempt.relay, failure.kind is Failure.STALE
        return Break(
            tunnel=relay is not None and relay.tunnel, stale=stale, taken=relay is not None and relay.taken,
            idempotent=stale and self._routed.is_idempotent,
            elsewhere=stale and self._routed.pinned is None and attempt.has_others(self._parts.clock()),
            final=isinstance(relay, StreamRelay) and relay.failure is not None and relay.failure.final,
        )  # fmt: skip

    def _count(self, attempt: Attempt, failure: AttemptFailed) -> AttemptFailed:
        """Notes what it means for the worker, and for what else may happen to the request; the failure as that worker's
        state shows it."""
        backend, info, now = attempt.backend, self._routed.info, self._parts.clock()
        if backend.ejection.dying(now):
            failure = AttemptFailed(str(failure), failure_policy.on_dying(failure.kind))
        follows, began = failure.follows, self._owner.began
        info.steps += (Step(backend, attempt.began_at, info.decision, now, str(failure), follows.cause, began),)
        attempt.release()
        if follows.sent:
            self.recovery.lost_on(backend)
        if follows.suspect:
            self._suspect(backend, failure)
        if follows.blamed:
            self._record_failure(attempt, failure)
        else:
            self._parts.accounting.unblamed(backend, info, failure, attempt.began_at)
        if failure.kind is Failure.ABSENT:
            # Another has it, or it will be back here.
            backend.missing_models[str(info.model)] = now + _MISSING_MODEL_S
        return failure

    def _suspect(self, backend: Backend, failure: AttemptFailed) -> None:
        transcript = self._routed.transcript
        if transcript is None or not transcript.started:  # else its losses are counted, see `leave_for_another`
            self.recovery.suspect(backend, failure)

    def _record_failure(self, attempt: Attempt, failure: AttemptFailed) -> None:
        id, name = self._routed.request.id, attempt.backend.id
        data = fields("attempt.failed", request_id=id, instance=name, cause=failure.follows.cause)
        log.warning("request %s failed on %s: %s", id, name, failure, extra=data)
        self._parts.accounting.attempt_failed(attempt.backend, self._routed.info, failure, attempt.began_at)

    def _go_on(self, attempt: Attempt, failure: AttemptFailed) -> None:
        backend, follows = attempt.backend, failure.follows
        relay = attempt.relay or self._routed.broken  # the latter: of a continuation that got no connection
        began = relay is not None and relay.began
        attempt.relay = None
        if not began and follows.excluded:
            self.recovery.exclude(backend, stale=failure.kind is Failure.STALE)
        hindrance = self._hindrance(relay, failure)
        action = failure_policy.after_failure(self._loss(attempt, relay, failure, bool(hindrance)))
        reason = f"{backend.id}: {failure}"
        if action is Action.END_WITH_ERROR:
            assert relay is not None
            self.end_broken(attempt, relay, f"{reason}; {hindrance}" if hindrance else reason)
        elif isinstance(relay, StreamRelay) and action is Action.COMPLETE:
            try:
                relay.complete()
            except CannotResume as error:
                self.end_broken(attempt, relay, f"{reason}; its usage is not known: {error}")
        elif isinstance(relay, StreamRelay) and action is Action.RESUME:
            self._resume(attempt, relay, failure)
        else:
            self._retry(action, reason, failure)

    def _hindrance(self, relay: Relay | None, failure: AttemptFailed) -> str:
        """Why a stream that has begun cannot go on elsewhere."""
        transcript = self._routed.transcript
        if transcript is None or transcript.finished or relay is None or not relay.began:
            return ""
        return self.recovery.hindrance(transcript, failure)

    def _loss(self, attempt: Attempt, relay: Relay | None, failure: AttemptFailed, hindered: bool) -> Loss:
        follows, transcript, began = failure.follows, self._routed.transcript, relay is not None and relay.began
        waited_until = self._routed.came + self._parts.settings.queue_timeout
        return Loss(
            began=began, stream=transcript is not None, hindered=hindered,
            finished=transcript is not None and transcript.finished,
            read=follows.sent and follows.blamed, repeatable=not began and attempt.retryable,
            slow=failure.kind is Failure.SLOW_CONNECT, late=self._parts.clock() >= waited_until,
            suspect=self.recovery.is_suspect,
        )  # fmt: skip

    # nothing of an answer has gone out

    def _retry(self, action: Action, reason: str, failure: AttemptFailed) -> None:
        if action is Action.ANSWER_FAILED:
            self._owner.refuse(ProxyError(502, reason, source=Source.UPSTREAM))
        elif action is Action.ANSWER_LATE:
            self._owner.refuse(ProxyError(503, reason, source=Source.UPSTREAM, retry_after=5))
        elif action is Action.RETRY:
            self._owner.run("retry a request", lambda: self._repeat(failure))
        elif self.recovery.may_have_killed:
            self._owner.run("keep it apart", self._place_apart)
        else:
            try:
                self._owner.place()
            except ProxyError as error:
                self._owner.refuse(error)

    async def _place_apart(self) -> None:
        """Also where no worker has read it: what it is suspected of it may do to the next one. Raises ProxyError."""
        self._owner.place(await self.recovery.apart())

    async def _repeat(self, failure: AttemptFailed) -> None:
        """All of it on another worker. Raises ProxyError."""
        await self.recovery.allow_retry(failure)
        if self._routed.transcript is not None:
            self._routed.body = self._routed.transcript.start_over()
        self._owner.place(await self.recovery.apart())

    # something has

    def _resume(self, attempt: Attempt, relay: StreamRelay, failure: AttemptFailed) -> None:
        routed = self._routed
        assert routed.transcript is not None
        self.recovery.leave_for_another(routed.transcript, attempt.backend, failure)
        routed.broken, routed.info.root = relay, routed.root
        self._owner.run("move a stream", lambda: self._move(attempt, relay, failure))

    async def _move(self, attempt: Attempt, relay: StreamRelay, failure: AttemptFailed) -> None:
        routed, transcript, backend = self._routed, self._routed.transcript, attempt.backend
        assert transcript is not None and routed.claim is not None
        id = routed.request.id
        try:
            found = await self.recovery.move(transcript, routed.claim)
        except (ProxyError, CannotResume) as error:
            data = fields("stream.broken", request_id=id, instance=backend.id)
            log.warning("stream of request %s cannot be continued: %s", id, error, extra=data)
            self.end_broken(attempt, relay, f"{backend.id}: {failure}; {error}")
            return
        self._parts.metrics.moved(backend.id, failure.follows.cause, found.way.value, found.tokens_again)
        self.recovery.record_outcome("moved")
        name, made, steps = found.backend.id, transcript.count(), routed.info.steps
        routed.info.steps = (*steps[:-1], steps[-1]._replace(way=found.way.value))
        data = fields("stream.moved", request_id=id, instance=name, tokens=made, way=found.way.value)
        log.info("stream of request %s continues on %s after %d tokens", id, name, made, extra=data)
        routed.body, routed.target, routed.replays = found.body, found.target, found.way is Way.REPLAY
        if isinstance(transcript, FollowedStream) and transcript.response is not None:
            self._parts.responses.moved(transcript.response, name, found.backend.spec.incarnation)
        if found.body:
            self._owner.give(found.backend)
        else:
            assert isinstance(transcript, StreamTranscript)
            relay.say(transcript.end_by_length())
            relay.complete()

    # its end

    def _end_as_told(self, attempt: Attempt, failure: AttemptFailed) -> None:
        """A stream that its worker ended for a fault of the client's: in the worker's words, with nothing after."""
        relay = attempt.relay
        assert isinstance(relay, StreamRelay) and relay.failure is not None
        latest = b"" if self._routed.transcript is None else self._routed.transcript.latest()
        relay.say(relay.failure.event or error_shapes.event(self._routed.route.path, str(failure), latest))
        self._parts.accounting.completed(attempt.backend, self._routed.info, 400, attempt.began_at)
        self._owner.finish(400, str(relay.failure), failed=False)
        self._client.close()

    def end_cut(self, attempt: Attempt, relay: Relay, failure: AttemptFailed) -> None:
        """The balancer is going, and ``relay`` with it."""
        self._record_failure(attempt, failure)
        self.end_broken(attempt, relay, str(failure))

    def end_broken(self, attempt: Attempt, relay: Relay, reason: str) -> None:
        """An answer that had begun cannot go on."""
        id, path, metrics = attempt.backend.id, self._routed.info.path, self._parts.metrics
        metrics.broken.add(id)
        self.recovery.record_outcome("failed")
        metrics.finished(id, path, 502, self._parts.clock() - attempt.began_at)
        relay.drop()
        self._owner.finish(502, reason, failed=True)
        relay.end_broken(reason)
