"""One try at one worker: its lease, its connection, what of the answer is passed on, and whether it takes too long."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol

from lb.forwarding import answers
from lb.forwarding.collaborators import Collaborators
from lb.forwarding.relay import Handling, Relay
from lb.forwarding.resume.displacement import makes_room
from lb.forwarding.resume.followed import FollowedStream
from lb.forwarding.resume.relay import StreamRelay
from lb.forwarding.retry import failure_policy
from lb.forwarding.retry.recovery import Recovery
from lb.forwarding.routed_request import RoutedRequest
from lb.protocol.body import says_model_is_missing
from lb.protocol.errors import AttemptFailed
from lb.protocol.failures import Failure
from lb.protocol.http1.response import ResponseHead
from lb.protocol.messages import Downstream
from lb.records.decision_log import Row
from lb.routing.backend import Backend, Lease
from lb.upstream import headers
from lb.upstream.connection import WorkerConnection
from lb.upstream.connections import TcpEndpoint

#: Bytes of a worker's 500 that is read before it is decided on.
_MOST_ERROR = 64 * 1024


class Owner(Protocol):
    """The request's exchange."""

    def run(self, name: str, wait: Callable[[], Awaitable[None]]) -> None:
        """In a task, the only one that the request has."""

    def stop_waiting(self) -> None: ...
    def row(self) -> Row: ...
    def answered(self) -> None:
        """The whole of an answer of 200 was passed on in one piece, and accounted for."""

    def completed(self, status: int) -> None: ...
    def failed(self, failure: AttemptFailed) -> None: ...


class Attempt:
    """Of ``routed``, on ``backend``, for the exchange ``owner``. ``recovery``: of what was lost before, None if nothing
    was. ``began_at``: s, monotonic. Implements `lb.forwarding.relay.Owner` and `lb.routing.backend.Asker`: one method
    more than a class should have, as both are here."""

    relay: Relay | None = None

    def __init__(
        self, parts: Collaborators, routed: RoutedRequest, client: Downstream, owner: Owner, backend: Backend,
        recovery: Recovery | None,
    ) -> None:
        self._parts, self._routed, self._client, self._owner = parts, routed, client, owner
        self.backend, self._recovery, self.began_at = backend, recovery, parts.clock()
        self.lease: Lease | None = backend.lease(self._evicted, self, routed.info.model)
        if parts.router.observes:
            parts.router.sent(backend, routed.info.features)
        if recovery is not None:
            recovery.enter(backend)
        if routed.transcript is not None and (routed.broken is None or routed.root is None):
            routed.root = backend.root(routed.info.model)  # until its stream has begun any version will do

    def start(self) -> None:
        connection = self._parts.upstream.idle(self.backend.endpoint or self._endpoint())
        if connection is not None:
            self._send(connection)
        else:
            self._owner.run("connect to a worker", self._connect)

    def reconnect(self) -> None:
        """Once more, on a connection that is new."""
        self.relay = None
        self._owner.run("reconnect to a worker", self._connect)

    async def _connect(self) -> None:
        try:
            connection = await self._parts.upstream.connect(self.backend.endpoint or self._endpoint())
        except AttemptFailed as failure:
            self._owner.failed(failure)
        else:
            self._parts.metrics.opened.add(self.backend.id)
            self._send(connection)

    def _endpoint(self) -> TcpEndpoint:
        backend = self.backend
        backend.endpoint = endpoint = self._parts.upstream.endpoint(backend.spec)
        return endpoint

    def _send(self, connection: WorkerConnection) -> None:
        parts, routed, backend = self._parts, self._routed, self.backend
        request, spec, body = routed.request, backend.spec, routed.body
        head, upload = request.head, request.upload
        length = upload.length if upload is not None else len(request.body if body is None else body)
        if routed.transcript is None:
            relay = Relay(self, self._client, connection, request, routed.recorder)
        else:
            relay = StreamRelay(self, self._client, connection, request, routed)
            if routed.broken is not None:
                relay.take_over(routed.broken)
        if routed.early is not None:
            relay.opened = routed.early.sent
        self.relay = relay
        forwarded = head.notes.get(headers.forwarded) or headers.forwarded(
            head, request.peer, parts.settings.trusted, parts.settings.scheme
        )
        endpoint = backend.endpoint or self._endpoint()
        start = headers.to_worker(
            head, endpoint.host_field, spec.path, forwarded, request.id, spec.api_key, length, routed.websocket,
            parts.settings.forwarded_headers,
        )
        if routed.extra_field:
            line = start.find(b"\r\n")
            start = start[:line] + routed.extra_field + start[line:]
        if isinstance(routed.transcript, FollowedStream):
            start = headers.for_replay(start, routed.replays, spec.capabilities.replay and routed.transcript.wants_told)
        if parts.decision_log.tracer is not None:
            start = parts.decision_log.tracer.sent(self._owner.row(), request, start)
        if routed.broken is None:
            relay.send(start, body)
            return
        if routed.target is not None:
            start = b"POST %b%b HTTP/1.1%b" % (spec.path.encode(), routed.target, start[start.find(b"\r\n") :])
        relay.send(start, body)
        if self._client.full:
            relay.hold(True)  # it was said to the one before

    @property
    def awaited(self) -> int | None:
        routed, relay = self._routed, self.relay
        if routed.transcript is not None and routed.broken is not None:
            return None if routed.transcript.made_here else len(routed.body or b"")
        return None if relay is not None and relay.began else routed.request.length or len(routed.request.body)

    def release(self) -> None:
        """Nothing of it is in flight any more. May be called again."""
        lease, self.lease = self.lease, None
        if lease is not None:
            self.backend.release(lease)
        if self._recovery is not None:
            self._recovery.leave()

    def _evicted(self, reason: str) -> None:
        """The worker is lost."""
        relay = self.relay
        if relay is not None:
            if relay.tunnel:
                relay.end_tunnel()
            else:
                relay.drop()
        self._owner.stop_waiting()
        self._owner.failed(AttemptFailed(reason, Failure.UNREACHABLE if relay is None else Failure.EVICTED))

    # whether it may be made again

    @property
    def retryable(self) -> bool:
        """Whether another worker may be asked for all of it."""
        routed, retries = self._routed, 0 if self._recovery is None else self._recovery.retries
        left = retries < self._parts.settings.migration_limit
        return routed.generation and routed.pinned is None and left and routed.is_idempotent

    def has_others(self, now: float) -> bool:
        """Whether there is a worker that has not failed at it, but for this one."""
        excluded = frozenset() if self._recovery is None else self._recovery.excluded
        info = self._routed.info
        return bool(self._parts.pool.candidates(info.model, excluded | {self.backend.id}, now, info.root))

    # from the relay

    def on_answer(self, head: ResponseHead) -> Handling:
        routed = self._routed
        if head.status == 200:
            return Handling.COLLECT if routed.generation else Handling.PASS
        if head.status == 101:
            return Handling.PASS if routed.websocket else Handling.REFUSE
        if head.status == 500 and routed.generation and head.length is not None and head.length <= _MOST_ERROR:
            return Handling.LOOK  # it may be the last word of an engine
        if self._is_wanted_elsewhere(head.status):
            return Handling.REFUSE
        if head.status in (400, 422) and routed.transcript is not None and routed.transcript.plan.ids:
            return Handling.COLLECT  # it may repeat what we asked for
        may_lack = head.status == 404 and routed.info.model in self._parts.pool.registered and routed.pinned is None
        if may_lack and self.relay is not None and not self.relay.taken:
            return Handling.LOOK
        return Handling.PASS

    def _is_wanted_elsewhere(self, status: int) -> bool:
        """Whether another worker is asked instead. Without one, or room to repeat it, the answer is the client's."""
        now = self._parts.clock()
        if failure_policy.of_status(status, our_key=self.backend.spec.api_key is not None) is None:
            return False
        return self.retryable and self.has_others(now) and self._parts.budget.has_room(now)

    def on_looked(self, head: ResponseHead, body: bytes) -> AttemptFailed | None:
        """What a worker says of itself is not the client's answer: that its engine is dead, that it has not got a model
        that the registry holds, that it gave a generation up, which it answers with 200. Nor is what is no answer."""
        if head.status == 404:
            return self._look_at_missing(body)
        if not self._routed.generation:
            return None
        failure = answers.wrong_with(head, body)
        if failure is None and head.status == 500 and self._is_wanted_elsewhere(500):
            return AttemptFailed("it answered 500", Failure.ERROR)
        return failure

    def _look_at_missing(self, body: bytes) -> AttemptFailed | None:
        parts, model = self._parts, self._routed.info.model
        held = model in parts.pool.registered  # still: it may have been unloaded on purpose
        late = parts.clock() >= self._routed.came + parts.settings.queue_timeout
        if held and not late and says_model_is_missing(body, str(model)):
            return AttemptFailed("it has not got the model", Failure.ABSENT)
        return None

    def on_first_byte(self, data: bytes) -> None:
        if self._recovery is not None:
            self._recovery.leave()
        self._parts.accounting.first_byte(self.backend, self._routed.info, data, self.began_at)

    def on_whole(self, body: bytes) -> None:
        backend, routed = self.backend, self._routed
        if backend.ejection.until:
            backend.succeeded()
        self._parts.accounting.answered(backend, routed.info, body, self.began_at, routed.recorder, routed.request)
        self.release()
        self._owner.answered()

    def on_complete(self, status: int) -> None:
        self._owner.completed(status)

    def on_broken(self, failure: AttemptFailed) -> None:
        self._owner.failed(failure)

    # time

    def overdue(self, now: float) -> AttemptFailed | None:
        """What is wrong with a stream whose worker says nothing at all, or that makes no progress while its client
        waits for it, if it can be taken elsewhere; or that it is to make room for others."""
        routed, relay, settings = self._routed, self.relay, self._parts.settings
        transcript = routed.transcript
        if relay is None:
            return None
        if relay.silent:
            silent = now - self.began_at
            if not self._may_leave(relay, silent, now):
                return None  # better late than never
            return AttemptFailed(f"no answer in {silent:.1f} s", Failure.SILENT)
        if transcript is None or not transcript.made_here:
            return None  # a worker that has not begun yet may have a long prompt to read, or others before it
        if makes_room(self._parts, routed, self.backend, now):
            return AttemptFailed("it makes room for others", Failure.DISPLACED)
        still = now - max(routed.recorder.last, self.began_at, relay.unblocked_at)
        if still <= settings.stall_timeout or self._client.full or transcript.finished:
            return None
        candidates = self._parts.pool.candidates(routed.info.model, {self.backend.id}, now, routed.info.root)
        at_its_limit = transcript.moves >= settings.migration_limit
        if at_its_limit or not candidates or not transcript.tells_progress or transcript.hindrance():
            return None  # its worker may be hung: the supervisor will tell
        return AttemptFailed(f"no token for {still:.1f} s", Failure.STALLED)

    def _may_leave(self, relay: Relay, silent: float, now: float) -> bool:
        """Whether it is given to another worker after so many seconds without a word. Only a stream is: the head of one
        comes at once, while the prompt is still waiting to be read. That of any other answer comes with its last
        token."""
        routed, settings = self._routed, self._parts.settings
        timeout, transcript = settings.first_byte_timeout, routed.transcript
        if not timeout or silent <= timeout or not routed.is_stream:
            return False
        if routed.broken is not None:
            moves = 0 if transcript is None else transcript.moves
            may_go = transcript is not None and moves < settings.migration_limit and not transcript.hindrance()
        else:
            may_go = self.retryable and not relay.taken
        return may_go and self.has_others(now)
