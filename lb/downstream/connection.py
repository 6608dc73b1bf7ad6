"""One connection of a client: reads its requests strictly, one after the other, and writes what answers them.

A request is read whole before anything is done with it, up to `Limits.collect` bytes of body; a larger one goes on
as it comes, at the pace of whoever takes it, if it says for which model before that. Whatever is not understood ends
the connection.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from enum import Enum, auto
from time import monotonic
from typing import cast

from config.peer_credentials import uid_of_peer
from lb.admission.allowance import Allowance
from lb.admission.budget import UNCOUNTED
from lb.admission.pace import Pace
from lb.downstream.answers import whole_answer
from lb.downstream.body_reader import BodyReader
from lb.downstream.intake import BodyIntake, SmallBody
from lb.downstream.presence import has_left, unsent
from lb.downstream.read_gate import ReadGate
from lb.downstream.service import Service
from lb.protocol.body import AT_ONCE, Scan
from lb.protocol.errors import ProxyError, Source
from lb.protocol.http1 import request as http
from lb.protocol.http1.request import Malformed, RequestHead
from lb.protocol.messages import Exchange, Request
from lb.protocol.routes import shown

#: What uvloop reads at once: so much may follow after reading has been paused.
_ONE_READ = 256_000

log = logging.getLogger(__name__)

#: Seconds that an answer has to begin in once a client sends no more, before that one is asked if it is still there.
_EOF_S = 0.1

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class _Reads(Enum):
    HEAD = auto()  # a request is awaited, or its head is being read
    BODY = auto()  # its body is being collected
    ANSWER = auto()  # it is being answered; with an upload, its body is still being read
    TUNNEL = auto()
    LINGER = auto()  # nothing is read any more, but what comes is taken in
    CLOSED = auto()


def _nowhere(data: bytes) -> None:
    """There is no connection yet."""


class ClientConnection(asyncio.Protocol):
    """``close_after``: no further request is read after the one that is being answered. ``origin``: what its address
    is counted as. ``request``: what is being read or answered, once its head is understood; ``exchange``: what is being
    answered; ``full``: its client does not read what it is sent."""

    __slots__ = (
        "_allowance", "_asked", "_at", "_body", "_buffer", "_ended", "_going", "_heads", "_plain", "_reading",
        "_searched", "_served", "_service", "_since", "_skipped", "_transport", "_uid", "_unwanted", "close_after",
        "exchange", "full", "local", "origin", "peer", "request", "write",
    )  # fmt: skip

    def __init__(self, service: Service) -> None:
        self._service = service
        self._transport: asyncio.Transport | None = None
        #: Raises nothing: a client that has gone is told of by `Exchange.client_gone`.
        self.write: Callable[[bytes], None] = _nowhere
        self._at = _Reads.HEAD
        self._heads = http.Heads()
        self._buffer = bytearray()
        self._body: BodyReader | None = None  # while it comes
        self.request: Request | None = None
        self.exchange: Exchange | None = None
        self._served = self.full = self._skipped = False
        self._searched = 0
        self._since = 0.0
        #: When the client ended its half of the connection; 0: it has not. Whether it was asked if it is there.
        self._ended, self._asked = 0.0, False
        #: The pace at which a client takes what has been written and is not gone yet.
        self._going: Pace | None = None
        #: There are too many connections; what is answered to all but a few requests.
        self._unwanted: ProxyError | None = None
        self._allowance: Allowance  # once there is a connection
        self._reading: ReadGate
        #: Bytes of a body that nothing is asked about if it came in one piece.
        self._plain = min(UNCOUNTED, service.admission.limits.max_body)
        self.close_after = False
        self.peer = self.local = self.origin = ""
        self._uid: int | None = None

    def peer_uid(self) -> int | None:
        """The user whose connection it is, None where the kernel does not tell. It is asked once: a connection does
        not change hands without its holder's help."""
        if self._uid is None and self._transport is not None:
            peer, local = (self._transport.get_extra_info(name) for name in ("peername", "sockname"))
            if peer and local:
                self._uid = uid_of_peer(peer[:2], local[:2])
        return self._uid

    @property
    def is_wanted(self) -> bool:
        """It is not one too many."""
        return self._unwanted is None

    # for whoever answers

    @property
    def speaks_chunked(self) -> bool:
        return self.request is not None and self.request.head.version == 1

    def closes_after_this(self) -> bool:
        """Whether the connection ends with the answer under way."""
        request = self.request
        if (
            self.close_after or self._service.closing or request is None or not request.head.keep_alive
            or (self._ended and not self._buffer)
        ):  # fmt: skip
            self.close_after = True
        else:
            self.close_after = request.upload is not None and not request.upload.complete
        return self.close_after

    def done(self) -> None:
        """The answer is complete."""
        self.exchange = None
        if self._allowance.in_use:
            self._allowance.over()
        if self.close_after or (self._ended and not self._buffer):
            self.close()
            return
        self.request, self._at, self._served, self._since = None, _Reads.HEAD, True, monotonic()
        self._skipped = self._reading.held = False
        if self.full:
            self._reading.pause()  # no further answer to a client that does not read this one
            return
        if self._reading.paused:
            self._reading.resume()
        if self._buffer:
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
        self.answer(error.status, json.dumps(error.body(path)).encode(), {**headers, **error.headers})
        self.done()

    def answer(self, status: int, body: bytes, headers: Mapping[str, str], kind: str = "application/json") -> None:
        """A whole answer of our own."""
        self.write(whole_answer(self.request, status, body, headers, kind, close=self.closes_after_this()))

    def close(self) -> None:
        """What was written goes out; then the connection ends. Where the client may still be sending, it is heard out
        for a moment: closing with unread input makes the kernel reset the connection, and the answer is lost."""
        if self._transport is None or self._transport.is_closing():
            return
        request = self.request
        unread = not self._ended and (
            request is None or self._at is _Reads.BODY or (request.upload is not None and not request.upload.complete)
        )
        self.exchange = self._body = None
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
        self._at, self.exchange, self._body = _Reads.CLOSED, None, None
        self._allowance.over()
        if self._transport is not None:
            self._transport.abort()

    def become_tunnel(self) -> None:
        self._at, self._body = _Reads.TUNNEL, None
        self._reading.resume()
        if self._buffer:
            data, self._buffer = bytes(self._buffer), bytearray()
            assert self.exchange is not None
            self.exchange.tunnelled(data)

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
        self._transport, self.write = transport, transport.write
        service = self._service
        transport.set_write_buffer_limits(high=max(0, service.admission.limits.buffer - _ONE_READ))
        peer, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        self.peer = str(peer[0]) if peer else ""
        self.local = str(local[0]) if local else ""
        self._since = monotonic()
        self.origin = service.admission.crowd.origin(self.peer)
        self._allowance = Allowance(service.admission, self.origin, self._read_on)
        self._reading = ReadGate(transport, self._allowance)
        self._unwanted = service.opened(self)
        if self._unwanted is not None and not service.keep_place(self):
            self.refuse(self._unwanted)

    def connection_lost(self, exc: Exception | None) -> None:
        exchange, self.exchange = self.exchange, None
        self._at, self.request, self._body = _Reads.CLOSED, None, None
        self._transport, self.write = None, _nowhere
        self._allowance.over()
        self._service.closed(self)
        if exchange is not None:
            exchange.client_gone()

    def eof_received(self) -> bool:
        """The client sends no more. Whether it has gone, or waits for its answer (RFC 9112 9.6 lets it), cannot be told
        from this alone."""
        whole = self._at is _Reads.ANSWER and self._body is None
        if whole or (self._at is _Reads.HEAD and b"\r\n\r\n" in self._buffer):
            if not self._ended:
                self._ended = monotonic()
                asyncio.get_running_loop().call_later(_EOF_S, self._ask_whether_there)
            return True
        return False  # what it began to send has no end: closed, and `connection_lost` tells

    def pause_writing(self) -> None:
        self.full = True
        limits = self._service.admission.limits
        self._going = Pace(limits.send, limits.rate, monotonic(), -unsent(self._transport))
        if self.exchange is not None:
            self.exchange.client_writable(False)

    def resume_writing(self) -> None:
        self.full, self._going = False, None
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
        if at is _Reads.HEAD and not self._buffer and not self.full:
            end = data.find(b"\r\n\r\n")
            if end >= 0 and data[:2] != b"\r\n":
                self._head(data[: end + 4], data[end + 4 :])
                return
        if at is _Reads.HEAD:
            if not self._buffer and not self._skipped:
                self._since = monotonic()
            self._buffer += data
            if not self.full:
                self._look_for_head()
        elif self._body is not None:
            self._body.take(data)
        elif at is _Reads.ANSWER:
            self._buffer += data  # the next request, sent ahead
            if len(self._buffer) > http.MAX_HEAD:
                self._reading.pause()  # `check` looks whether the client is still there
        elif at is _Reads.TUNNEL and self.exchange is not None:
            self.exchange.tunnelled(data)

    def check(self, now: float) -> None:
        """Ends what takes too long. Called now and then."""
        at, limits, waited = self._at, self._service.admission.limits, now - self._since
        if self._going is not None and self._going.is_slow(now, -unsent(self._transport)):
            self._service.slow_reader(self)
            self.cut_off()
        elif at is _Reads.HEAD:
            if self._going is None:  # what it sent ahead is not looked at before it has taken its answer
                self._check_head(waited)
        elif (at is _Reads.LINGER and waited > limits.linger) or (
            at is _Reads.CLOSED and self._going is None and waited > limits.send
        ):
            self.cut()
        elif (body := self._body) is not None and (
            error := self._allowance.refusal(now, body.progress, paused=self._reading.paused)
        ) is not None:
            self.reject(error)
        elif (self._reading.paused or self._ended) and has_left(
            self._transport, missing=0 if body is None else body.missing, may_have_ended=bool(self._ended)
        ):
            self.cut_off()
        elif (exchange := self.exchange) is not None:
            exchange.check(now)
            if self._ended and now - self._ended > _EOF_S:
                self._ask_whether_there()

    def turn_away(self) -> bool:
        """Makes room for another connection, if nothing is being answered. Whether it did."""
        if self.exchange is not None:
            return False
        self.cut()
        return True

    def end(self, reason: str | None = None) -> None:
        """The balancer is going: an idle connection is closed, a request that is being answered ends with
        ``reason``, if there is one."""
        if self.exchange is not None:
            if reason is not None:
                self.exchange.cut(reason)
        elif self._at is _Reads.HEAD and not self._buffer and self._transport is not None:
            self._at, self._since = _Reads.CLOSED, monotonic()
            self._transport.close()

    # inside

    def _go_on(self) -> None:
        if self._at is _Reads.HEAD and self._buffer and not self.full:
            self._since = monotonic()
            self._look_for_head()
            if self._ended and self._is_cut_short and not self._reading.busy and self._transport is not None:
                self._transport.close()  # the rest of it cannot come any more

    @property
    def _is_cut_short(self) -> bool:
        """What is there of the next request is not whole."""
        return self._at is _Reads.BODY or (self._at is _Reads.HEAD and b"\r\n\r\n" not in self._buffer)

    def _look_for_head(self) -> None:
        """In the buffer, of which ``_searched`` bytes were looked at already."""
        buffer = self._buffer
        if not self._skipped and buffer[:2] == b"\r\n":
            del buffer[:2]  # RFC 9112 2.2: an empty line before a request is passed over, once
            self._skipped, self._searched = True, 0
            if not buffer:
                return
        end = buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        if end < 0:
            try:
                http.check_beginning(buffer, self._searched)
            except Malformed as error:
                self.reject(error)
            self._searched = len(buffer)
            return
        data = bytes(buffer)
        self._buffer, self._searched, self._skipped = bytearray(), 0, False
        self._head(data[: end + 4], data[end + 4 :])

    def _read_on(self) -> None:
        """The body was not read for a while, and is from now on."""
        if self._body is not None:
            self._allowance.resumed(monotonic(), self._body.progress)
        self._reading.resume()

    def _check_head(self, waited: float) -> None:
        """Between two requests, or while the head of one comes."""
        limits = self._service.admission.limits
        longest = limits.head if self._unwanted is None else min(limits.head, limits.reserve_head)
        if self._buffer and waited > longest:
            self.reject(Malformed(408, f"the head of the request did not come within {longest:g} s"))
        elif waited > (limits.idle if self._served else longest):
            self._at, self._since = _Reads.CLOSED, monotonic()
            if self._transport is not None:
                self._transport.close()

    def _ask_whether_there(self) -> None:
        """One that has ended its half of the connection looks like one that has left until something is written: then
        the kernel of one that has left resets the connection. So something is written that means nothing. To a client
        of HTTP/1.1 that has got nothing yet, a 100, which every one has to understand (RFC 9110 15.2); between two
        chunks, a zero that the next one's size begins with. For one of HTTP/1.0 that has got nothing there is no such
        word: there the end counts as having left, as uvicorn and nginx take it for all."""
        exchange = self.exchange
        if self._asked or exchange is None:
            return
        if not exchange.began and not self.speaks_chunked:
            self.cut_off()
        elif not exchange.began or exchange.is_between_chunks:
            self._asked = True
            self.write(b"0" if exchange.began else _CONTINUE)

    def cut_off(self) -> None:
        """The client has gone."""
        exchange = self.exchange
        self.cut()
        if exchange is not None:
            exchange.client_gone()

    def _head(self, data: bytes, rest: bytes) -> None:
        service = self._service
        try:
            if len(data) > http.MAX_HEAD:
                raise Malformed(431, f"a head of more than {http.MAX_HEAD} bytes")
            head = self._heads.read(data)
        except Malformed as error:
            self.reject(error)
            return
        self.request = request = Request(head, b"", self.peer, self.local, "")
        self.close_after = self._unwanted is not None
        length = head.length
        if head.method == "OPTIONS" and (ready := service.preflight(head)) is not None:
            status, text, fields = ready
            self._skip_or_close(rest, length)
            self.answer(status, text.encode(), fields, "text/plain")
            self.done()
            return
        try:
            request.id = service.admit(request, self)
            if self._unwanted is not None and not service.answers_anyway(head):
                raise self._unwanted
            scan = None
            if length is None or length > self._plain or len(rest) < length:
                scan = self._announced(head, length, len(rest))
        except ProxyError as error:
            self._skip_or_close(rest, length)
            self.refuse(error)
            return
        if length is not None and length <= AT_ONCE:
            if len(rest) >= length:
                self._at = _Reads.ANSWER
                if len(rest) > length:
                    self._buffer += rest[length:]
                    rest = rest[:length]
                self._start(rest)
                return
            intake: BodyIntake | SmallBody = SmallBody(length)
        else:
            intake = BodyIntake(length, service.admission.limits.max_body, scan)
        self._body = body = BodyReader(
            self, request, intake, self._allowance, self._reading, service.admission.limits.collect, service.may_stream
        )
        self._at = _Reads.BODY
        if head.expects_continue and not rest:
            self.write(_CONTINUE)
        if rest:
            body.take(rest)

    def _announced(self, head: RequestHead, length: int | None, there: int) -> Scan | None:
        """A body, of which some bytes are ``there``; what reads it on its way, None for a small one. Raises ProxyError
        (413, 429, 503) where there is no room for it."""
        allowance, longest = self._allowance, self._service.admission.limits.max_body
        if length and length > longest:
            raise ProxyError(413, f"a body of more than {longest} bytes")
        whole = length is not None and there >= length <= AT_ONCE
        room = allowance.whole(length or 0) if whole else not allowance.has_no_room
        if not room and not self._service.answers_anyway(head):
            raise allowance.no_room()
        if not whole:
            allowance.begin(monotonic())
        return None if length is not None and length <= AT_ONCE else self._service.scan(head)

    def _skip_or_close(self, rest: bytes, length: int | None) -> None:
        """After a refusal: a body that is there already is passed over, for another one nobody waits."""
        if length is not None and len(rest) >= length:
            self._at = _Reads.ANSWER
            self._buffer += rest[length:]
        else:
            self._at = _Reads.BODY
            self.close_after = True

    # for the body's reader

    def reads(self, reader: BodyReader) -> bool:
        return self._body is reader

    def body_is_read(self, rest: bytes) -> None:
        self._buffer += rest
        self._body = None

    def begin(self, body: bytes) -> None:
        self._at = _Reads.ANSWER
        self._start(body)

    def more_of_upload(self) -> None:
        if self.exchange is not None:
            self.exchange.more()

    def _start(self, body: bytes) -> None:
        request = self.request
        assert request is not None
        request.body = body
        self.exchange = exchange = self._service.exchange(self, request)
        try:
            exchange.start()
        except ProxyError as error:
            self.refuse(error)
        except Exception:
            log.exception("%s %s", request.head.method, shown(request.head.path))
            exchange.client_gone()
            self.exchange = None
            self.refuse(ProxyError(500, "internal error of the balancer; its log has it", source=Source.INTERNAL))

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
        self._body = None
        self.refuse(error if isinstance(error, ProxyError) else ProxyError(error.status, str(error)))
