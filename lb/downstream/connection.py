"""One connection of a client: reads its requests strictly, one after the other, and writes what answers them.

A request is read whole before anything is done with it, up to `Limits.collect` bytes of body; a larger one goes on
as it comes, at the pace of whoever takes it, if it says for which model before that. Whatever is not understood ends
the connection.

Longer than a file should be: it is one class, and that says why.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from enum import Enum, auto
from time import monotonic
from typing import cast

from lb.admission.allowance import Allowance
from lb.admission.budget import UNCOUNTED
from lb.downstream.answers import whole_answer
from lb.downstream.body_reader import BodyReader
from lb.downstream.head_buffer import HeadBuffer
from lb.downstream.intake import BodyIntake, SmallBody
from lb.downstream.peer import CONTINUE, Peer
from lb.downstream.read_gate import ReadGate
from lb.downstream.service import Service
from lb.protocol.body import AT_ONCE
from lb.protocol.errors import Answered, ProxyError, internal_error
from lb.protocol.http1 import request as http
from lb.protocol.http1.request import Malformed
from lb.protocol.messages import Exchange, Request
from lb.protocol.routes import shown

#: What uvloop reads at once: so much may follow after reading has been paused.
_ONE_READ = 256_000

log = logging.getLogger(__name__)

#: Seconds that an answer has to begin in once a client sends no more, before that one is asked if it is still there.
_EOF_S = 0.1


class _Reads(Enum):
    IDLE = auto()  # a request is awaited, and nothing of it has come
    HEAD = auto()  # its head has begun to come, or is not looked at before its client has taken the answer before
    BODY = auto()  # its body is being collected
    ANSWER = auto()  # it is being answered; with an upload, its body is still being read
    TUNNEL = auto()
    LINGER = auto()  # nothing is read any more, but what comes is taken in
    CLOSED = auto()


_BETWEEN = (_Reads.IDLE, _Reads.HEAD)


def _nowhere(data: bytes) -> None:
    """There is no connection yet, or none any more."""


class ClientConnection(asyncio.Protocol):
    """``close_after``: no further request is read after the one that is being answered. ``request``: what is being
    read or answered, once its head is understood; ``body``: what reads its body, while that comes; ``exchange``: what
    answers it; ``full``: its client does not read what it is sent. ``unwanted``: there are too many connections; what
    is answered to all but a few requests.

    More methods than a class should have, as three roles meet in it that share one state: asyncio's protocol,
    `lb.protocol.messages.Downstream` for whoever answers, `lb.downstream.service.Client` for the server."""

    __slots__ = (
        "_allowance", "_at", "_buffer", "_heads", "_plain", "_reading", "_service", "_since", "_transport", "body",
        "close_after", "exchange", "full", "peer", "request", "unwanted", "write",
    )  # fmt: skip

    # Once there is a connection.
    _allowance: Allowance
    _reading: ReadGate
    _transport: asyncio.Transport
    peer: Peer

    def __init__(self, service: Service) -> None:
        self._service = service
        #: Raises nothing: a client that has gone is told of by `Exchange.client_gone`.
        self.write: Callable[[bytes], None] = _nowhere
        self._at = _Reads.IDLE
        self._heads = http.Heads()
        self._buffer = HeadBuffer()
        self.body: BodyReader | None = None
        self.request: Request | None = None
        self.exchange: Exchange | None = None
        self.unwanted: ProxyError | None = None
        self.full = self.close_after = False
        self._since = 0.0
        #: Bytes of a body that nothing is asked about if it came in one piece.
        self._plain = min(UNCOUNTED, service.admission.limits.max_body)

    # for whoever answers

    def closes_after_this(self) -> bool:
        """Whether the connection ends with the answer under way."""
        request = self.request
        if (
            self.close_after or self._service.closing or request is None or not request.head.keep_alive
            or (self.peer.ended and not self._buffer)
            or (request.upload is not None and not request.upload.complete)
        ):  # fmt: skip
            self.close_after = True
        return self.close_after

    def done(self) -> None:
        """The answer is complete."""
        self.exchange = None
        if self._allowance.in_use:
            self._allowance.over()
            self._reading.held = False
        if self.close_after:
            self.close()
            return
        self.request, self._at, self._since = None, _Reads.IDLE, monotonic()
        if self.full:
            self._at = _Reads.HEAD
            self._reading.pause()  # no further answer to a client that does not read this one
            return
        if self._reading.paused:
            self._reading.resume()
        if self._buffer:
            self._at = _Reads.HEAD
            asyncio.get_running_loop().call_soon(self._go_on)

    def refuse(self, error: ProxyError) -> None:
        """Answers with an error, in the shape of the API that was asked."""
        request, headers = self.request, {"Retry-After": str(error.retry_after)} if error.retry_after else {}
        if request is None:
            headers["X-Request-Id"] = id = self._service.identify(None)
        else:
            request.id = id = request.id or self._service.identify(request.head)
        self._service.refused(error, self, id)
        path = "" if request is None else request.head.path
        self._answer(error.status, json.dumps(error.body(path)).encode(), {**headers, **error.headers})

    def close(self) -> None:
        """What was written goes out; then the connection ends. Where the client may still be sending, it is heard out
        for a moment: closing with unread input makes the kernel reset the connection, and the answer is lost."""
        if self._transport.is_closing():
            return
        request = self.request
        unread = not self.peer.ended and (
            request is None or self._at is _Reads.BODY or (request.upload is not None and not request.upload.complete)
        )
        self.exchange = self.body = None
        self._allowance.over()
        if unread and self._at is not _Reads.TUNNEL:
            self._at, self._since = _Reads.LINGER, monotonic()
            self._reading.held = self._reading.busy = False
            self._reading.resume()
            self._transport.write_eof()
        else:
            self._at, self._since = _Reads.CLOSED, monotonic()
            self._transport.close()

    def cut(self) -> None:
        """At once, so that what was sent cannot be taken for complete."""
        self._at, self.exchange, self.body = _Reads.CLOSED, None, None
        self._allowance.over()
        self._transport.abort()

    def become_tunnel(self) -> None:
        self._at, self.body = _Reads.TUNNEL, None
        self._reading.resume()
        if self._buffer:
            assert self.exchange is not None
            self.exchange.tunnelled(self._buffer.drain())

    def hold_upload(self, hold: bool) -> None:
        """Stops reading the body while whoever takes it cannot keep up."""
        self._reading.held = hold
        if hold:
            self._reading.pause()
        else:
            self._read_on()

    # from the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's are of no asyncio class
        self._transport, self.write, self._since = transport, transport.write, monotonic()
        admission = self._service.admission
        transport.set_write_buffer_limits(high=max(0, admission.limits.buffer - _ONE_READ))
        self.peer = Peer(transport, admission.crowd.origin)
        self._allowance = Allowance(admission, self.peer.origin, self._read_on)
        self._reading = ReadGate(transport, self._allowance)
        self.unwanted = self._service.opened(self)
        if self.unwanted is not None:
            self.close_after = True
            if not self._service.keep_place(self):
                self.refuse(self.unwanted)

    def connection_lost(self, exc: Exception | None) -> None:
        exchange, self.exchange = self.exchange, None
        self._at, self.request, self.body, self.write = _Reads.CLOSED, None, None, _nowhere
        self._allowance.over()
        self._service.closed(self)
        if exchange is not None:
            exchange.client_gone()

    def eof_received(self) -> bool:
        """The client sends no more. Whether it has gone, or waits for its answer (RFC 9112 9.6 lets it), cannot be told
        from this alone."""
        whole = self._at is _Reads.ANSWER and self.body is None
        if whole or (self._at is _Reads.HEAD and self._buffer.holds_head):
            if not self.peer.ended:
                self.peer.ended = monotonic()
                self.close_after = self.close_after or not self._buffer
                asyncio.get_running_loop().call_later(_EOF_S, self._ask_if_there)
            return True
        return False  # what it began to send has no end: closed, and `connection_lost` tells

    def pause_writing(self) -> None:
        self.full = True
        if self._at is _Reads.IDLE:
            self._at = _Reads.HEAD
        self.peer.stops_reading(self._service.admission.limits, monotonic())
        if self.exchange is not None:
            self.exchange.client_writable(False)

    def resume_writing(self) -> None:
        self.full = False
        self.peer.reads_again()
        if self.exchange is not None:
            self.exchange.client_writable(True)
        elif self._at is _Reads.HEAD:
            self._since = monotonic()
            self._reading.resume()
            self._go_on()
        elif self._at is _Reads.CLOSED:
            self._since = monotonic()  # the little that is left has as long again

    def data_received(self, data: bytes) -> None:
        at = self._at
        if at is _Reads.IDLE:
            end = data.find(b"\r\n\r\n")
            if end >= 0 and data[:2] != b"\r\n":
                self._head(data[: end + 4], data[end + 4 :])
                return
            at = self._at = _Reads.HEAD
        if at is _Reads.HEAD:
            if not self._buffer and not self._buffer.skipped:
                self._since = monotonic()
            self._buffer += data
            if not self.full:
                self._look_for_head()
        elif self.body is not None:
            self.body.take(data)
        elif at is _Reads.ANSWER:
            self._buffer += data  # the next request, sent ahead
            if len(self._buffer) > http.MAX_HEAD:
                self._reading.pause()  # `check` looks whether the client is still there
        elif at is _Reads.TUNNEL and self.exchange is not None:
            self.exchange.tunnelled(data)

    # for the server

    def check(self, now: float) -> None:
        """Ends what takes too long. Called now and then."""
        at, limits, waited, peer = self._at, self._service.admission.limits, now - self._since, self.peer
        if peer.is_too_slow(now):
            self._service.slow_reader(self)
            self.cut_off()
        elif at in _BETWEEN:
            if peer.has_taken_all:  # else what it sent ahead is not looked at
                self._check_head(waited)
        elif (at is _Reads.LINGER and waited > limits.linger) or (
            at is _Reads.CLOSED and peer.has_taken_all and waited > limits.send
        ):
            self.cut()
        elif (body := self.body) is not None and (
            error := self._allowance.refusal(now, body.progress, paused=self._reading.paused)
        ) is not None:
            self.reject(error)
        elif (self._reading.paused or peer.ended) and peer.has_left(0 if body is None else body.missing):
            self.cut_off()
        elif self.exchange is not None:
            self.exchange.check(now)
            if peer.ended and now - peer.ended > _EOF_S:
                self._ask_if_there()

    def _check_head(self, waited: float) -> None:
        """Between two requests, or while the head of one comes."""
        limits = self._service.admission.limits
        longest = limits.head if self.unwanted is None else min(limits.head, limits.reserve_head)
        if self._buffer and waited > longest:
            self.reject(Malformed(408, f"the head of the request did not come within {longest:g} s"))
        elif waited > (limits.idle if self._heads.any else longest):
            self._at, self._since = _Reads.CLOSED, monotonic()
            self._transport.close()

    def end(self, reason: str | None = None) -> None:
        """The balancer is going: an idle connection is closed, a request that is being answered ends with
        ``reason``, if there is one."""
        if self.exchange is not None:
            if reason is not None:
                self.exchange.cut(reason)
        elif self._at in _BETWEEN and not self._buffer:
            self._at, self._since = _Reads.CLOSED, monotonic()
            self._transport.close()

    def cut_off(self) -> None:
        """The client has gone."""
        exchange = self.exchange
        self.cut()
        if exchange is not None:
            exchange.client_gone()

    def _ask_if_there(self) -> None:
        exchange, request = self.exchange, self.request
        if exchange is None or request is None:
            return
        if not self.peer.ask_if_there(exchange, speaks_chunked=request.head.version == 1):
            self.cut_off()

    # the next request

    def _go_on(self) -> None:
        """With what has come already."""
        if self._at is not _Reads.HEAD or self.full:
            return
        if not self._buffer:
            self._at = _Reads.IDLE
            return
        self._since = monotonic()
        self._look_for_head()
        cut_short = self._at in (_Reads.HEAD, _Reads.BODY) and not self._buffer.holds_head
        if self.peer.ended and cut_short and not self._reading.busy:
            self._transport.close()  # the rest of it cannot come any more

    def _look_for_head(self) -> None:
        try:
            found = self._buffer.take()
        except Malformed as error:
            self.reject(error)
            return
        if found is not None:
            self._head(*found)

    def _head(self, data: bytes, rest: bytes) -> None:
        service = self._service
        try:
            head = self._heads.read(data)
        except Malformed as error:
            self.reject(error)
            return
        self.request = request = Request(head, self.peer.address)
        length = head.length
        try:
            request.id = service.admit(request, self)
            if self.unwanted is not None and not service.answers_anyway(head):
                raise self.unwanted
            if length is not None and length <= self._plain and len(rest) == length:
                self.begin(request, rest)
                return
            self._read_body(request, rest)
        except Answered as ready:
            self._skip_or_close(rest, length)
            self._answer(ready.status, ready.text.encode(), ready.fields, "text/plain")
        except ProxyError as error:
            self._skip_or_close(rest, length)
            self.refuse(error)

    def _read_body(self, request: Request, rest: bytes) -> None:
        """Of which ``rest`` is there, or all of it and something behind it. Raises ProxyError."""
        head, service, length = request.head, self._service, request.head.length
        limits, small = service.admission.limits, length is not None and length <= AT_ONCE
        whole, scan = length is not None and len(rest) >= length, None
        if length is None or length > self._plain or not whole:
            self._allowance.announce(length, len(rest), monotonic(), anyway=service.answers_anyway(head))
            scan = None if small else service.scan(request)
        if small and whole:
            self._buffer += rest[length:]
            self.begin(request, rest[:length])
            return
        intake = SmallBody(length) if length is not None and small else BodyIntake(length, limits.max_body, scan)
        self.body = body = BodyReader(
            self, request, intake, self._allowance, self._reading, limits.collect, service.may_stream
        )
        self._at = _Reads.BODY
        if head.expects_continue and not rest:
            self.write(CONTINUE)
        if rest:
            body.take(rest)

    def _skip_or_close(self, rest: bytes, length: int | None) -> None:
        """After a refusal: a body that is there already is passed over, for another one nobody waits."""
        if length is not None and len(rest) >= length:
            self._at = _Reads.ANSWER
            self._buffer += rest[length:]
        else:
            self._at = _Reads.BODY
            self.close_after = True

    def _read_on(self) -> None:
        """The body was not read for a while, and is from now on."""
        if self.body is not None:
            self._allowance.resumed(monotonic(), self.body.progress)
        self._reading.resume()

    # for the body's reader

    def body_is_read(self, rest: bytes) -> None:
        self._buffer += rest
        self.body = None

    def begin(self, request: Request, body: bytes) -> None:
        self._at, request.body = _Reads.ANSWER, body
        self.exchange = exchange = self._service.exchange(self, request)
        try:
            exchange.start()
        except ProxyError as error:
            self.refuse(error)
        except Exception:
            log.exception("%s %s", request.head.method, shown(request.head.path))
            exchange.client_gone()
            self.exchange = None
            self.refuse(internal_error())

    def reject(self, error: Malformed | ProxyError) -> None:
        """The request is not understood, or not complete: nothing that follows can be either."""
        exchange, self.exchange = self.exchange, None
        began = exchange is not None and exchange.began
        if exchange is not None:
            exchange.client_gone()
        if self._at is _Reads.CLOSED or began:
            self.cut()
            return
        self.close_after = True
        if self._at is not _Reads.ANSWER:
            self._at = _Reads.BODY  # unread, whatever it is
        self._buffer.clear()
        self.body = None
        self.refuse(error if isinstance(error, ProxyError) else ProxyError(error.status, str(error)))

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str], kind: str = "application/json") -> None:
        """A whole answer of our own."""
        self.write(whole_answer(self.request, status, body, headers, kind, close=self.closes_after_this()))
        self.done()
