"""One call: for whoever answers it, the connection of a client with a single request.

So everything that holds for a request of HTTP holds for it: it is counted, admitted, queued, looked after, drained and
written down where those are, and nothing of that is written twice (decision 42).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic

from lb.admission.allowance import Allowance
from lb.admission.pace import Pace
from lb.downstream.service import PeerView, Service
from lb.protocol.errors import ProxyError, internal_error
from lb.protocol.http1.request import RequestHead
from lb.protocol.messages import Exchange, Request
from lb.protocol.routes import Route
from lb.rpc import codes, metadata
from lb.rpc.answer import ChatAnswer, TextDelta
from lb.rpc.codes import CallFailure
from lb.rpc.outbox import Outbox

log = logging.getLogger(__name__)


class RpcCall:
    """Implements `lb.protocol.messages.Downstream` and `lb.downstream.service.Client`. ``hang_up`` ends the connection
    that it came over: one of its streams alone cannot be ended where its caller takes nothing. ``failure``: how it
    ended, None for well."""

    close_after = True

    def __init__(self, service: Service, peer: PeerView, hang_up: Callable[[], None]) -> None:
        self._service, self.peer, self._hang_up = service, peer, hang_up
        self.request: Request | None = None
        self.exchange: Exchange | None = None
        self.failure: CallFailure | None = None
        self.full = False
        self._answer, self._outbox = ChatAnswer(), Outbox()
        self._allowance = Allowance(service.admission, peer.origin, lambda: None)
        self._pace: Pace | None = None
        self.unwanted = service.opened(self)

    # for the handler

    def admit(self, head: RequestHead, route: Route) -> None:
        """Raises ProxyError."""
        head.notes[Route] = route
        self.request = request = Request(head, self.peer.address)
        request.id = self._service.admit(request, self)
        if self.unwanted is not None:
            raise self.unwanted

    def begin(self, body: bytes) -> None:
        """Asks. Raises ProxyError."""
        request = self.request
        assert request is not None
        if not self._allowance.whole(len(body)):
            raise self._allowance.no_room()
        request.body = body
        self.exchange = exchange = self._service.exchange(self, request)
        try:
            exchange.start()
        except ProxyError:
            raise
        except Exception:
            log.exception("%s", request.head.path)
            exchange.client_gone()
            raise internal_error() from None

    @property
    def fields(self) -> list[tuple[str, str]]:
        """What its answer says before the text."""
        return self._answer.fields or []

    async def next(self) -> TextDelta | None:
        """What is to be sent next; None: nothing more, see ``failure``."""
        return await self._outbox.next()

    def sent(self, delta: TextDelta) -> None:
        self._outbox.sent(delta)
        if self.full and self._outbox.size <= self._service.admission.limits.buffer // 2:
            self.full, self._pace = False, None
            if self.exchange is not None:
                self.exchange.client_writable(True)

    def leave(self) -> None:
        """It is over, on whatever way."""
        exchange, self.exchange = self.exchange, None
        self._pace = None
        self._outbox.drop()
        self._allowance.over()
        self._service.closed(self)
        if exchange is not None:
            exchange.client_gone()

    # for whoever answers

    def write(self, data: bytes) -> None:
        for delta in self._answer.feed(data):
            self._outbox.put(delta)
        limits = self._service.admission.limits
        if not self.full and self._outbox.size > limits.buffer:
            self.full, self._pace = True, Pace(limits.send, limits.rate, monotonic(), self._outbox.taken)
            if self.exchange is not None:
                self.exchange.client_writable(False)

    def closes_after_this(self) -> bool:
        return True

    def done(self) -> None:
        self._end(self._answer.failure())

    def close(self) -> None:
        self._end(self._answer.failure())

    def refuse(self, error: ProxyError) -> None:
        request, told = self.request, b""
        if request is None:
            id = self._service.identify(None)
        else:
            request.id = id = request.id or self._service.identify(request.head)
            told = request.told
        self._service.refused(error, self, id)
        failure, said = codes.refusal(error), [("x-request-id", id), *metadata.told(told)]
        said += [(name.lower(), value) for name, value in error.headers.items() if name.lower().startswith("x-")]
        self._end(CallFailure(failure.code, failure.message, (*failure.trailers, *said)))

    def cut(self) -> None:
        self._outbox.drop()
        self._end(codes.BROKEN)

    def become_tunnel(self) -> None:
        raise NotImplementedError("a call is no tunnel")

    def hold_upload(self, hold: bool) -> None:
        """All of it is there."""

    def _end(self, failure: CallFailure | None) -> None:
        self.exchange, self.failure = None, failure
        self._outbox.end()

    # for the server

    def check(self, now: float) -> None:
        if self._pace is not None and self._pace.is_slow(now, self._outbox.taken):
            self._service.slow_reader(self)
            self.cut_off()
        elif self.exchange is not None:
            self.exchange.check(now)

    def end(self, reason: str | None = None) -> None:
        if self.exchange is not None and reason is not None:
            self.exchange.cut(reason)

    def cut_off(self) -> None:
        exchange = self.exchange
        self.cut()
        if exchange is not None:
            exchange.client_gone()
        self._hang_up()
