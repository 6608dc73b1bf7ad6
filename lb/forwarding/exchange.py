"""One request, from its arrival to the end of its answer: who can take it, wait for one, attempt, again if safe.

A free worker with an open connection is asked in the very turn of the event loop in which the request came; a task is
made only where something has to be waited for. `docs/decisions/0010` has the why.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable
from typing import ParamSpec

from config.logs import fields
from lb.forwarding import answers, failure_policy, features
from lb.forwarding.collaborators import Collaborators
from lb.forwarding.failover import Recovery
from lb.forwarding.failure_policy import Failure
from lb.forwarding.relay import Relay, Relayed, Verdict
from lb.forwarding.resume import asked
from lb.forwarding.resume.point import CannotResume
from lb.forwarding.resume.relay import StreamRelay
from lb.forwarding.resume.script import Script
from lb.protocol import body as request_body
from lb.protocol import error_shapes, responses, routes, sagemaker
from lb.protocol.body import says_model_is_missing
from lb.protocol.errors import AttemptFailed, ProxyError, Source
from lb.protocol.facts import check_response
from lb.protocol.http1.response import ResponseHead
from lb.protocol.messages import Downstream, Request
from lb.protocol.routes import Route
from lb.records.decision_log import Row, Step
from lb.routing.backend import Backend, Lease
from lb.routing.router import Pinned
from lb.routing.strategies.base import RequestInfo
from lb.telemetry.model_metrics import Meter
from lb.upstream import headers
from lb.upstream.connection import WorkerConnection
from lb.upstream.connections import TcpEndpoint

log = logging.getLogger(__name__)

_P = ParamSpec("_P")

#: Routes whose streams are read along.
_STREAMS = ("/v1/completions", "/v1/chat/completions")

_Task = asyncio.Task[None]

#: Bytes of a worker's 500 that is read before it is decided on.
_MOST_ERROR = 64 * 1024

#: Seconds for which a worker is not asked again for an adapter that it answered 404 for.
_LACKING_S = 0.3


class Exchange(Relayed):
    """Implements `lb.protocol.messages.Exchange` and `lb.forwarding.relay.Owner`."""

    # Defaults stand here and not in `__init__`: most requests are over without any of them being set.
    _meter: Meter | None = None
    _backend: Backend | None = None
    _lease: Lease | None = None
    _task: _Task | None = None
    _pinned: Pinned | None = None
    _recovery: Recovery | None = None  # once an attempt has failed
    _script: Script | None = None
    _broken: Relay | None = None  # the relay whose stream is being continued
    _body: bytes | None = None  # what workers are asked, where it is not the client's own
    _target: bytes | None = None
    _field = b""  # one more for the worker
    _began = 0.0
    _root: str | None = None  # the version of the model that the stream began with
    _flowing = 0.0  # since when the client has taken everything
    _again = _over = _websocket = False

    def __init__(self, parts: Collaborators, client: Downstream, request: Request, route: Route) -> None:
        self._parts, self._client, self._request, self._route = parts, client, request, route

    # from the client

    def start(self) -> None:
        """Raises ProxyError for what no worker is asked."""
        parts, request = self._parts, self._request
        head, route = request.head, self._route
        upload = request.upload
        self._generation = route.generation and (upload is None or upload.kept)
        if route.websocket:
            self._websocket = head.upgrade and (head.find(b"upgrade") or "").lower() == "websocket"
        facts = request.facts or request_body.facts(
            request.body, head.content_type, previous=route.path == routes.RESPONSES
        )
        pool, model = parts.pool, facts.model
        if route.path == routes.INVOCATIONS:
            if (model := self._canonical(sagemaker.model(head, model), model)) is not None:
                self._field = sagemaker.field(model)
        elif model is not None and ":" in model:
            model = self._canonical(model, model)
        if not pool.knows(model):
            raise parts.router.unknown(model)
        self._info, self._came = RequestInfo(model, route.path, None, request.id), parts.clock()
        if parts.router.needs:
            self._info.features = features.of(request, model, parts.pool.registered, parts.router.needs)
        self._meter = parts.metrics.models.begin(model)
        parts.budget.request(self._came)
        if facts.stream and route.path in _STREAMS and upload is None and request_body.is_light(request.body):
            self._read_along(chat=route.path != _STREAMS[0])
        if pool.registered:
            parts.accounting.touch(model)
        try:
            wanted = facts.previous if route.path == routes.RESPONSES else route.response
            if wanted is None:
                self._next()
                return
            check_response(wanted)
            if (owner := parts.responses.known(wanted)) is not None:
                self._pin(owner)
            else:
                self._task = self._start("find a response's worker", self._find, wanted)
        except ProxyError as error:
            self._finish(error.status, str(error), failed=True)
            raise

    def _canonical(self, model: str | None, in_body: str | None) -> str | None:
        """The plain name of ``model``, which is the one that counts. A body that names another is made to name it."""
        model = self._parts.pool.canonical(model)
        if model is not None and in_body is not None and model != in_body:
            self._request.rename(model)
        return model

    def _read_along(self, *, chat: bool) -> None:
        """A stream: what comes of it is written down, so that another worker can go on with it."""
        request, meter = self._request, self._meter
        assert meter is not None
        wanted = asked.read(request.body, chat=chat, resume=self._parts.settings.resume)
        self._script = script = Script(wanted, request.body, meter, self._parts.builds.of(self._info.model))
        self._body, meter.tokens, meter.exact = wanted.body, script.count, wanted.ids

    def client_gone(self) -> None:
        """Whatever runs for it is stopped."""
        if self._over:
            return
        self._client_left()
        self._finish(499, "the client went away", failed=False)  # nobody's failure

    def tunnelled(self, data: bytes) -> None:
        if self._relay is not None:
            self._relay.tunnelled(data)

    def cut(self, reason: str) -> None:
        if self._over:
            return
        if self._relay is None and self._broken is not None:
            self._stop_waiting()
            self._relay = self._broken
        if self._relay is not None and self._relay.began:
            self._count_failure(AttemptFailed(reason, Failure.BROKEN))
            self._end_broken(self._relay, reason)
        else:
            self._client_left()
            self._finish(503, reason, failed=True)
            self._client.refuse(ProxyError(503, reason, source=Source.INTERNAL, retry_after=1))

    def client_writable(self, writable: bool) -> None:
        self._flowing = self._parts.clock()
        super().client_writable(writable)

    def check(self, now: float) -> None:
        """A stream whose worker says nothing at all, or that stands still while its client waits for it, is taken
        elsewhere, if there is anywhere."""
        script, relay, backend, meter = self._script, self._relay, self._backend, self._meter
        if relay is None or backend is None or meter is None:
            return
        if relay.silent:
            self._check_silence(relay, backend, now)
            return
        if script is None or not script.made_here:
            return  # a worker that has not begun yet may have a long prompt to read, or others before it
        still = now - max(meter.last, self._began, self._flowing)
        limit = self._parts.settings.migration_limit
        if still <= self._parts.settings.stall_timeout or self._client.full or script.finished or script.moves >= limit:
            return
        if not self._parts.pool.candidates(self._info.model, {backend.id}, now, self._info.root) or script.hindrance():
            return  # its worker may be hung: the supervisor will tell
        relay.drop()
        self._parts.metrics.stalled(backend.id)
        self._failed(AttemptFailed(f"no token for {still:.1f} s", Failure.STALLED))

    def _check_silence(self, relay: Relay, backend: Backend, now: float) -> None:
        """Only of a stream: the head of one comes at once, while the prompt is still waiting to be read. That of any
        other answer comes with its last token."""
        timeout, silent, script = self._parts.settings.first_byte_timeout, now - self._began, self._script
        if not timeout or silent <= timeout or not self._is_stream:
            return
        moves = script is not None and script.moves < self._parts.settings.migration_limit and not script.hindrance()
        may_go = moves if self._broken is not None else self._may_be_repeated and not relay.taken
        if not may_go or not self._others(backend, now):
            return  # better late than never
        relay.drop()
        self._failed(AttemptFailed(f"no answer in {silent:.1f} s", Failure.SILENT))

    @functools.cached_property
    def _is_stream(self) -> bool:
        """Whether a stream was asked for; looked up for those only that take long."""
        request = self._request
        if self._script is not None:
            return True
        if request.upload is not None:
            return False
        return (request.facts or request_body.facts(request.body, request.head.content_type)).stream

    @property
    def _may_be_repeated(self) -> bool:
        """Whether another worker may be asked for all of it."""
        return self._again and self._only_takes_time

    @property
    def _only_takes_time(self) -> bool:
        """Whether nothing else is lost if it is made twice."""
        if self._route.path != routes.RESPONSES or self._request.head.method != "POST":
            return self._route.generation or self._request.head.method != "POST"
        if self._request.upload is not None:
            return False  # its body is in pieces, and ``body`` the first of them: what stands behind it cannot be told
        body = self._request.body
        return responses.may_be_repeated(body, request_body.is_light(body))

    def _others(self, backend: Backend, now: float) -> bool:
        """Whether there is a worker that has not failed at it, but for ``backend``."""
        excluded = self._excluded | {backend.id}
        return bool(self._parts.pool.candidates(self._info.model, excluded, now, self._info.root))

    # choose

    @property
    def _excluded(self) -> frozenset[str]:
        return frozenset() if self._recovery is None else self._recovery.excluded

    def _next(self, avoided: frozenset[str] = frozenset()) -> None:
        """An attempt on whoever is free, or wait for one. Raises ProxyError."""
        backend = self._parts.router.choose(self._info, self._excluded | avoided, self._pinned)
        if backend is None:
            self._task = self._start("wait for a worker", self._wait)
        else:
            self._attempt(backend)

    async def _wait(self) -> None:
        try:
            backend = await self._parts.router.wait(self._info, self._excluded, self._pinned, self._came)
        except ProxyError as error:
            self._refuse(error)
        else:
            self._task = None
            self._attempt(backend)

    async def _find(self, response: str) -> None:
        """No balancer of this run has made that response; a worker may still know it."""
        try:
            pinned = await self._parts.responses.search(response)
        except ProxyError as error:
            self._refuse(error)
            return
        self._task = None
        try:
            self._pin(pinned)
        except ProxyError as error:
            self._refuse(error)

    def _pin(self, pinned: Pinned) -> None:
        self._pinned = pinned
        self._next()

    def _start(self, name: str, wait: Callable[_P, Awaitable[None]], *args: _P.args, **kwargs: _P.kwargs) -> _Task:
        async def guarded() -> None:
            """A mistake of ours is an answer too: nobody waits for ever, nothing stays in flight."""
            try:
                await wait(*args, **kwargs)
            except Exception:
                log.exception("%s %s", self._request.head.method, self._route.path)
                message = "internal error of the balancer; its log has it"
                self._refuse(ProxyError(500, message, source=Source.INTERNAL))

        return self._parts.tasks.start(guarded(), name)

    # attempt

    def _attempt(self, backend: Backend) -> None:
        parts = self._parts
        self._backend, self._began = backend, parts.clock()
        retries = 0 if self._recovery is None else self._recovery.retries
        self._again = self._generation and retries < parts.settings.migration_limit and self._pinned is None
        self._lease = backend.lease(self._evicted, self)
        if self._recovery is not None:
            self._recovery.enter(backend)
        if self._script is not None and self._root is None:
            self._root = backend.root(self._info.model)
        connection = parts.upstream.idle(backend.endpoint or self._endpoint(backend))
        if connection is not None:
            self._send(connection)
        else:
            self._task = self._start("connect to a worker", self._connect, backend)

    async def _connect(self, backend: Backend) -> None:
        upstream = self._parts.upstream
        try:
            connection = await upstream.connect(backend.endpoint or self._endpoint(backend))
        except AttemptFailed as failure:
            self._task = None
            self._failed(failure)
        else:
            self._task = None
            self._parts.metrics.opened(backend.id)
            self._send(connection)

    def _endpoint(self, backend: Backend) -> TcpEndpoint:
        backend.endpoint = endpoint = self._parts.upstream.endpoint(backend.spec)
        return endpoint

    def _send(self, connection: WorkerConnection) -> None:
        parts, request, backend = self._parts, self._request, self._backend
        assert backend is not None
        head, spec, body = request.head, backend.spec, self._body
        if self._script is None:
            relay = Relay(self, self._client, connection, request, self._meter)
        else:
            relay = StreamRelay(self, self._client, connection, request, self._script)
            if self._broken is not None:
                relay.take_over(self._broken)
        self._relay = relay
        forwarded = head.notes.get(headers.forwarded) or headers.forwarded(head, request.peer, parts.settings.trusted)
        length = len(request.body if body is None else body) if request.upload is None else request.length
        endpoint = backend.endpoint or self._endpoint(backend)
        start = headers.to_worker(
            head, endpoint.host_field, spec.path, forwarded, request.id, spec.api_key, length, self._websocket,
            parts.settings.forwarded_headers,
        )
        if self._field:
            line = start.find(b"\r\n")
            start = start[:line] + self._field + start[line:]
        if parts.journal.tracer is not None:
            start = parts.journal.tracer.sent(self.row(), request, start)
        if self._target is not None:
            start = b"POST %b%b HTTP/1.1%b" % (spec.path.encode(), self._target, start[start.find(b"\r\n") :])
        relay.send(start, body)
        if self._broken is not None and self._client.full:
            relay.pause()  # it was said to the one before

    @property
    def awaited(self) -> int | None:
        """For `lb.routing.backend.Asker`."""
        if self._script is not None and self._broken is not None:
            return None if self._script.made_here else len(self._body or b"")
        return None if self.began else self._request.length or len(self._request.body)

    # from the relay

    def on_answer(self, head: ResponseHead) -> Verdict:
        if head.status == 200:
            return Verdict.COLLECT if self._generation else Verdict.PASS
        if head.status == 101:
            return Verdict.PASS if self._websocket else Verdict.REFUSE
        if head.status == 500 and self._generation and head.length is not None and head.length <= _MOST_ERROR:
            return Verdict.LOOK  # it may be the last word of an engine
        if self._is_wanted_elsewhere(head.status):
            return Verdict.REFUSE
        pool, model = self._parts.pool, self._info.model
        if head.status in (400, 422) and self._script is not None and self._script.asked.ids:
            return Verdict.COLLECT
        if head.status == 404 and model in pool.registered and self._pinned is None and self._can_be_sent_again:
            return Verdict.LOOK
        return Verdict.PASS

    def _is_wanted_elsewhere(self, status: int) -> bool:
        """Whether another worker is asked instead. Without one, or room to repeat it, the answer is the client's."""
        backend, now = self._backend, self._parts.clock()
        assert backend is not None
        if failure_policy.of_status(status, our_key=backend.spec.api_key is not None) is None:
            return False
        return self._may_be_repeated and self._others(backend, now) and self._parts.budget.has_room(now)

    def on_looked(self, head: ResponseHead, body: bytes) -> AttemptFailed | None:
        """What a worker says of itself is not the client's answer: that its engine is dead, that it has not got a model
        that the registry holds, that it gave a generation up, which it answers with 200. Nor is what is no answer."""
        if head.status == 404:
            return self._look_at_missing(body)
        if not self._generation:
            return None
        failure = answers.wrong_with(head, body)
        if failure is None and head.status == 500 and self._is_wanted_elsewhere(500):
            return AttemptFailed("it answered 500", Failure.ERROR)
        return failure

    def _look_at_missing(self, body: bytes) -> AttemptFailed | None:
        model, now = self._info.model, self._parts.clock()
        held = model in self._parts.pool.registered  # still: it may have been unloaded on purpose
        late = now >= self._came + self._parts.settings.queue_timeout
        if held and not late and says_model_is_missing(body, str(model)):
            return AttemptFailed("it has not got the model", Failure.ABSENT)
        return None

    def on_first_byte(self, data: bytes) -> None:
        assert self._backend is not None
        if self._recovery is not None:
            self._recovery.leave()
        self._parts.accounting.first_byte(self._backend, self._info, data, self._began)

    def on_whole(self, body: bytes) -> None:
        backend, meter = self._backend, self._meter
        assert backend is not None and meter is not None
        if backend.ejection.until:
            backend.ejection.succeeded()
        self._parts.accounting.answered(backend, self._info, body, self._began, meter, self._request)
        self._over, self._relay = True, None
        self._release()
        self._client.done()

    def on_complete(self, status: int) -> None:
        backend = self._backend
        assert backend is not None
        if backend.ejection.until:
            backend.ejection.succeeded()
        self._parts.accounting.completed(backend, self._info, status, self._began)
        self._finish(status, failed=status >= 500)
        if status == 101:
            self._client.close()
        else:
            self._client.done()

    def on_broken(self, failure: AttemptFailed) -> None:
        relay = self._relay
        assert relay is not None
        if relay.tunnel:
            self.on_complete(101)
        elif failure.kind is Failure.STALE:
            self._stale(relay, failure)
        elif isinstance(relay, StreamRelay) and relay.failure is not None and relay.failure.final:
            event = relay.failure.event or error_shapes.event(self._route.path, str(failure))
            self._end_as_told(relay, event)
        else:
            self._failed(failure)

    def _stale(self, relay: Relay, failure: AttemptFailed) -> None:
        """Nobody's failure, and nothing was read of it: once more, elsewhere, or on a connection that is new. Unless
        the worker has just died of it, which looks alike."""
        backend = self._backend
        assert backend is not None
        if relay.taken or not self._only_takes_time:
            self._failed(AttemptFailed(str(failure), Failure.BROKEN))
        elif self._pinned is None and self._others(backend, self._parts.clock()):
            self._failed(failure)
        else:
            self._suspect(backend, failure)
            self._relay = None
            self._task = self._start("connect to a worker again", self._connect, backend)

    # what follows a failure

    @property
    def _can_be_sent_again(self) -> bool:
        return self._relay is None or not self._relay.taken

    def _evicted(self, reason: str) -> None:
        """The worker is lost."""
        relay = self._relay
        if relay is not None and relay.tunnel:
            relay.end_tunnel()
            self.on_complete(101)
            return
        if relay is not None:
            relay.drop()
        self._stop_waiting()
        self._failed(AttemptFailed(reason, Failure.UNREACHABLE if relay is None else Failure.EVICTED))

    def _failed(self, failure: AttemptFailed) -> None:
        """Again, elsewhere, or an answer that says so."""
        backend, relay = self._backend, self._relay
        assert backend is not None
        info, now = self._info, self._parts.clock()
        if backend.ejection.dying(now):
            failure = AttemptFailed(str(failure), failure_policy.on_dying(failure.kind))
        follows = failure.follows
        info.steps += (Step(backend, self._began, info.decision, now, str(failure), follows.cause, self.began),)
        self._release()
        recovery = self._after_failure()
        if follows.sent:
            recovery.fell(backend)
        if follows.suspect:
            self._suspect(backend, failure)
        if follows.told:
            self._count_failure(failure)
        if failure.kind is Failure.ABSENT:
            # Another has it, or it will be back here.
            backend.lacking[str(info.model)] = now + _LACKING_S
        if relay is None and self._broken is not None:
            relay = self._broken  # a continuation that got no connection
        if relay is not None and relay.began:
            self._go_on(relay, backend, failure)
            return
        self._relay = None if self._can_be_sent_again else relay
        if follows.excluded:
            recovery.exclude(backend)
        try:
            if follows.sent and follows.told and not self._may_be_repeated:
                raise ProxyError(502, f"{backend.id}: {failure}", source=Source.UPSTREAM)
            if failure.kind is Failure.SLOW_CONNECT and now >= self._came + self._parts.settings.queue_timeout:
                raise ProxyError(503, f"{backend.id}: {failure}", source=Source.UPSTREAM, retry_after=5)
            if (follows.sent and follows.told) or recovery.is_suspect:
                self._relay = None
                self._task = self._start("make it again", self._repeat, failure)
            else:
                self._next()
        except ProxyError as error:
            self._refuse(error)

    def _count_failure(self, failure: AttemptFailed) -> None:
        assert self._backend is not None
        id, name = self._request.id, self._backend.id
        data = fields("attempt.failed", request_id=id, instance=name, cause=failure.follows.cause)
        log.warning("request %s on %s: %s", id, name, failure, extra=data)
        self._parts.accounting.attempt_failed(self._backend, self._info, failure, self._began)

    def _after_failure(self) -> Recovery:
        if self._recovery is None:
            self._recovery = Recovery(self._parts, self._info, self._came)
        return self._recovery

    def _became(self, what: str) -> None:
        if self._recovery is not None:
            self._recovery.became(what)

    def _suspect(self, backend: Backend, failure: AttemptFailed) -> None:
        made_nothing = self._script is None or not self._script.made_here
        self._after_failure().suspect(backend, failure, made_nothing=made_nothing)

    async def _repeat(self, failure: AttemptFailed) -> None:
        """All of it on another worker: nothing of an answer has gone out."""
        recovery = self._after_failure()
        try:
            await recovery.again(failure)
            if self._script is not None:
                self._body = self._script.start_over()
            avoided = await recovery.apart()
            self._task = None
            self._next(avoided)
        except ProxyError as error:
            self._refuse(error)

    def _go_on(self, relay: Relay, backend: Backend, failure: AttemptFailed) -> None:
        """An answer that had begun is broken: on with it elsewhere, or its end."""
        script, reason = self._script, f"{backend.id}: {failure}"
        if script is None or not isinstance(relay, StreamRelay):
            self._end_broken(relay, reason)
        elif script.finished:
            try:
                relay.complete()
            except CannotResume as error:
                self._end_broken(relay, f"{reason}; its usage is not known: {error}")
        elif why := self._after_failure().hindrance(script, failure):
            self._end_broken(relay, f"{reason}; {why}")
        else:
            self._after_failure().leave_for_another(script, backend, failure)
            self._broken, self._relay = relay, None
            self._info.root = self._root
            self._task = self._start("move a stream", self._move, relay, backend, failure)

    async def _move(self, relay: StreamRelay, backend: Backend, failure: AttemptFailed) -> None:
        script = self._script
        assert script is not None
        try:
            found = await self._after_failure().move(script)
        except (ProxyError, CannotResume) as error:
            data = fields("stream.broken", request_id=self._request.id, instance=backend.id)
            log.warning("request %s cannot go on: %s", self._request.id, error, extra=data)
            self._end_broken(relay, f"{backend.id}: {failure}; {error}")
            return
        self._parts.metrics.moved(backend.id, failure.follows.cause, found.tokens_again)
        self._became("moved")
        id, name, made = self._request.id, found.backend.id, script.count()
        data = fields("stream.moved", request_id=id, instance=name, tokens=made)
        log.info("request %s goes on on %s after %d tokens", id, name, made, extra=data)
        self._body, self._target, self._task = found.body, found.target, None
        if found.body:
            self._attempt(found.backend)
        else:
            relay.say(script.end_by_length())
            relay.complete()

    def _end_as_told(self, relay: StreamRelay, event: bytes) -> None:
        """A stream that its worker ended for a fault of the client's: in the worker's words, with nothing after."""
        backend = self._backend
        assert backend is not None
        relay.say(event)
        self._parts.accounting.completed(backend, self._info, 400, self._began)
        self._finish(400, str(relay.failure), failed=False)
        self._client.close()

    def _end_broken(self, relay: Relay, reason: str) -> None:
        backend = self._backend
        assert backend is not None
        self._parts.metrics.broken(backend.id)
        self._became("failed")
        self._parts.metrics.finished(backend.id, self._info.path, 502, self._parts.clock() - self._began)
        relay.drop()
        self._finish(502, reason, failed=True)
        relay.end_broken(reason)

    def _client_left(self) -> None:
        """Stops what runs, and counts it."""
        self._stop_waiting()
        if self._relay is not None:
            self._relay.drop()
        if self._backend is not None and self._lease is not None:
            if self._relay is not None and self._relay.tunnel:
                self._parts.accounting.completed(self._backend, self._info, 101, self._began)
            else:
                self._parts.accounting.left(self._backend, self._info, self._began)

    def _refuse(self, error: ProxyError) -> None:
        if self._broken is not None:
            self._end_broken(self._broken, str(error))
            return
        self._became("failed")
        self._finish(error.status, str(error), failed=True)
        self._client.refuse(error)

    def _stop_waiting(self) -> None:
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    def _release(self) -> None:
        lease = self._lease
        if lease is not None:
            self._lease = None
            lease.release()
        if self._recovery is not None:
            self._recovery.leave()

    @property
    def began(self) -> bool:
        return self._broken is not None or super().began

    @property
    def over(self) -> bool:
        return self._over

    def row(self) -> Row:
        """How it has been routed so far."""
        return self._row(self._lease)

    def _row(self, lease: Lease | None, status: int = 0, reason: str = "") -> Row:
        """How it was routed on ``lease``, and what became of it if it is over."""
        meter, now = self._meter, self._parts.clock() if status else 0.0
        assert meter is not None
        backend = None if lease is None else lease.backend
        return self._info, backend, self._began, meter.began, meter.first, now, status, meter.made, reason

    def _finish(self, status: int, reason: str = "", *, failed: bool) -> None:
        """Once, on every way out."""
        if self._over:
            return
        self._over = True
        self._relay = None
        meter, parts, lease = self._meter, self._parts, self._lease
        self._release()  # first: whatever goes wrong with its account, its worker is free again
        if meter is None:
            return
        prompt = None if self._script is None else self._script.prompt_tokens
        meter.end(failed, prompt)
        row = self._row(lease, status, reason)
        parts.accounting.count_adapter(self._info.model, failed)
        parts.journal.over(row, self._request, meter, prompt)
