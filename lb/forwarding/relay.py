"""An answer on its way from a worker to a client: bytes as they come, at the pace of the slower side.

The boundary that decides what may follow a failure: the head of the answer is held back until the first bytes of its
body are there. Before them the request can still be answered otherwise; after them the client has to be told that the
answer is broken, and must not be able to take it for complete.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from time import monotonic
from typing import Protocol

from lb.forwarding.retry.failure_policy import of_status
from lb.protocol import error_shapes
from lb.protocol.errors import AttemptFailed
from lb.protocol.failures import Failure
from lb.protocol.http1.chunked import LAST, frame
from lb.protocol.http1.response import ResponseHead
from lb.protocol.messages import Downstream, Request
from lb.protocol.websocket import CLOSE_RESTART, Frames
from lb.telemetry.model_metrics import RequestRecorder
from lb.upstream import headers
from lb.upstream.connection import WorkerConnection

#: Bytes of an answer that is looked at before it is passed on.
_MOST_LOOKED_AT = 64 * 1024

#: Bytes of an answer that is kept until it is whole; a larger one is passed on as it comes from there on.
_MOST_COLLECTED = 4 * 1024 * 1024

#: In an answer that a worker gave up (it says 200), and how JSON ends.
_ABORTED, _ENDS = b'"finish_reason":"abort"', (b"}", b"}\n", b"]")


class Handling(Enum):
    """What is to be done with an answer, by its head."""

    PASS = auto()
    LOOK = auto()  # read it whole first, it is small
    COLLECT = auto()  # read it whole first, if it is not too large: as long as nothing is sent, another can be asked
    REFUSE = auto()  # the one of another worker is wanted instead


class Owner(Protocol):
    """Who asked for the answer. After `on_broken` the relay does nothing more by itself."""

    def on_answer(self, head: ResponseHead) -> Handling: ...
    def on_looked(self, head: ResponseHead, body: bytes) -> AttemptFailed | None:
        """Why an answer that was read whole, or a stream that begins with ``body``, is not to be passed on; None: it
        is."""

    def on_first_byte(self, data: bytes) -> None: ...
    def on_whole(self, body: bytes) -> None:
        """`on_first_byte` and `on_complete` at once, of an answer of 200 that the client has been sent."""

    def on_complete(self, status: int) -> None: ...
    def on_broken(self, failure: AttemptFailed) -> None: ...


class Relay:
    """Reads one answer from ``connection`` for ``client``. ``began``: bytes of it have gone out; ``opened``: a head
    has, of a stream of chunks, before any worker was asked. ``taken``: bytes
    of an upload have, which cannot be sent again. ``unblocked_at``: since when (s, monotonic) its client takes
    everything, if it did not before.

    More methods than a class should have: what reads an answer and what a client may want of it share its state."""

    # Defaults stand here and not in `__init__`: most requests are over without any of them being set.
    _head: ResponseHead | None = None
    _held: bytearray | None = None
    _length: int | None = None  # where it is not the head that tells
    _frames: Frames | None = None
    _frame = _stream = False
    began = taken = opened = False
    unblocked_at = 0.0
    aligned = True
    _collects = False
    status = 0

    def __init__(
        self, owner: Owner, client: Downstream, connection: WorkerConnection, request: Request,
        recorder: RequestRecorder | None = None,
    ) -> None:
        self._owner, self._client, self._connection = owner, client, connection
        self._request, self.recorder = request, recorder
        self.raw = request.head.version == 1

    # from the worker

    def on_head(self, head: ResponseHead) -> None:
        verdict = self._owner.on_answer(head)
        if verdict is Handling.REFUSE:
            self._connection.drop()
            kind = of_status(head.status, our_key=True) or Failure.BROKEN
            self._owner.on_broken(AttemptFailed(f"it answered {head.status}", kind))
            return
        self._head, self.status, self._stream = head, head.status, head.is_events
        if verdict is Handling.LOOK or (verdict is Handling.COLLECT and not self._stream):
            self._held, self.raw, self._collects = bytearray(), False, verdict is Handling.COLLECT
        elif self.opened and not (head.status == 200 and head.is_events):
            self._held, self.raw = bytearray(), False
        elif head.status == 101:
            self._start_tunnel(head)

    def on_body(self, data: bytes) -> None:
        if self._held is not None:
            self._look_at(data)
            return
        if self.recorder is not None:
            self.recorder.chunk(data, self._stream)
        if self.began:
            if self._frames is not None:
                self._frames.feed(data)
            self._client.write(frame(data) if self._frame else data)
        else:
            if self._stream and (failure := self._look_at_opening(data)) is not None:
                self._connection.drop()
                self._owner.on_broken(failure)
                return
            self._owner.on_first_byte(data)
            start = self._start()
            self._client.write(start + (frame(data) if self._frame else data))
            if self._stream and self.recorder is not None and self.raw and not self._frame:
                self._connection.go_straight(self._client.write, self.recorder)

    def on_end(self) -> None:
        if self._held is not None:
            body, self._held = bytes(self._held), None
            assert self._head is not None
            if (failure := self._owner.on_looked(self._head, body)) is not None:
                self._owner.on_broken(failure)
                return
            if self.opened:
                self._end_opened(body)
                return
            self._length = len(body)
            if body:
                self.on_body(body)
        if not self.began:
            self._owner.on_first_byte(b"")
            self._client.write(self._start())
        if self._frame:
            self._client.write(LAST)
        self._owner.on_complete(self.status)

    def on_whole(self, head: ResponseHead, body: bytes) -> None:
        if self.opened:
            self.on_head(head)
            self.on_body(body)
            self.on_end()
            return
        if _ABORTED in body or not body.endswith(_ENDS):
            failure = self._owner.on_looked(head, body)
            if failure is not None:
                self._owner.on_broken(failure)
                return
        client = self._client
        framing = b"Content-Length: %d" % len(body)
        close = client.closes_after_this()
        request = self._request
        start = headers.to_client(
            head, request_id=request.id, framing=framing, close=close, grant=request.grant, told=request.told
        )
        client.write(start + body)
        self._owner.on_whole(body)

    def on_failure(self, reason: str) -> None:
        reason = f"the answer broke off ({reason})" if self.began else f"no answer ({reason})"
        self._owner.on_broken(AttemptFailed(reason, Failure.STALE if self._connection.stale else Failure.BROKEN))

    def on_writable(self, writable: bool) -> None:
        if not self._request.repeatable:
            self._client.hold_upload(not writable)

    # the request

    def send(self, head: bytes, body: bytes | None = None) -> None:
        """Asks: ``head`` with ``body`` or, without one, with the request's own, or what has come of it."""
        request = self._request
        if request.upload is None:
            self._connection.ask(self, request.head.method, head, request.body if body is None else body)
            return
        self._connection.ask(self, request.head.method, head, more=True)
        if request.upload.kept:
            self._connection.send(request.upload.pieces, last=True)
            return
        self._client.hold_upload(False)
        self.more()

    def more(self) -> None:
        """Sends what there is more of the body."""
        upload = self._request.upload
        if upload is None or upload.kept:
            return
        pieces, upload.pieces = upload.pieces, deque()
        self.taken = self.taken or bool(pieces)
        if upload.length is None:
            pieces = deque(map(frame, pieces))
            if upload.complete:
                pieces.append(LAST)
        self._connection.send(pieces, last=upload.complete)

    # from the client

    def tunnelled(self, data: bytes) -> None:
        self._connection.send((data,))

    @property
    def tunnel(self) -> bool:
        """Whether it is a WebSocket by now."""
        return self._frames is not None

    @property
    def silent(self) -> bool:
        """Nothing of an answer has come."""
        return self._head is None

    def drop(self) -> None:
        """Nothing more is wanted from the worker."""
        self._connection.drop(self)

    @property
    def is_between_chunks(self) -> bool:
        """Whether what the client has been sent ends with a chunk, and another one follows."""
        if not self.began or self._held is not None:
            return False
        return self._frame or (self.raw and self._length is None and self._connection.passage_is_plain)

    def end_tunnel(self) -> None:
        """The worker is lost: the client is told, if that is possible between two frames."""
        if self._frames is not None and self._frames.between:
            self._client.write(CLOSE_RESTART)
        self.drop()

    def hold(self, paused: bool) -> None:
        """The client cannot take more now, or can again."""
        self.unblocked_at = monotonic()
        self._connection.hold(self, paused)

    def end_broken(self, reason: str) -> None:
        """After the answer has begun: an event stream ends in an error event, anything else is cut off."""
        if not self._stream:
            self._client.cut()
            return
        event = b"\n\n" + error_shapes.event(self._request.head.path, reason, self._latest())
        if self._frame:
            event = frame(event)
        elif self.raw and self._head is not None and self._head.chunked:
            passage = self._connection.passage
            event = passage.interrupt(event) if passage is not None else frame(event)
        self._client.write(event)
        self._client.close()

    # inside

    def _latest(self) -> bytes:
        """What an error event has to follow."""
        return b"" if self.recorder is None else b"".join(self.recorder.recent()[-2:])

    def _end_opened(self, body: bytes) -> None:
        """No stream was answered, but its head has gone out: what was, is told in an event."""
        self.began = True
        self._owner.on_first_byte(b"")
        self._client.write(frame(error_shapes.event_of(self._request.head.path, body, self.status)) + LAST)
        self._owner.on_complete(self.status)

    def _look_at(self, data: bytes) -> None:
        assert self._held is not None
        self._held += data
        if self._collects:
            if len(self._held) > _MOST_COLLECTED:
                body, self._held = bytes(self._held), None
                self.on_body(body)
        elif len(self._held) > _MOST_LOOKED_AT:
            self._connection.drop()
            self._owner.on_broken(AttemptFailed("its answer is too large to be what it should be", Failure.BROKEN))

    def _look_at_opening(self, data: bytes) -> AttemptFailed | None:
        head = self._head
        assert head is not None
        if self.raw and head.chunked:
            data = data.partition(b"\r\n")[2]  # behind the size of its first chunk
        return self._owner.on_looked(head, data)

    def _start(self) -> bytes:
        """The head for the client. From here on there is no way back."""
        head, client = self._head, self._client
        assert head is not None
        self.began = True
        if self.opened:
            self._frame = not (head.chunked and self.raw)
            return b""
        framing = b""
        length = head.length if self._length is None else self._length
        if length is not None:
            if head.status != 204:
                framing = b"Content-Length: %d" % length
        elif head.bodiless or self._request.head.method == "HEAD":
            framing = b"Transfer-Encoding: chunked" if head.chunked and self._request.head.version == 1 else b""
        elif self._request.head.version == 1:
            framing = b"Transfer-Encoding: chunked"
            self._frame = not (head.chunked and self.raw)
        else:
            client.close_after = True
        return headers.to_client(
            head, request_id=self._request.id, framing=framing, close=client.closes_after_this(),
            grant=self._request.grant, told=self._request.told,
        )

    def _start_tunnel(self, head: ResponseHead) -> None:
        self.began, self._frames = True, Frames()
        upgrade = b"Upgrade: " + head.upgrade + b"\r\nConnection: Upgrade"
        self._client.write(headers.to_client(head, request_id=self._request.id, framing=upgrade, close=False))
        self._client.become_tunnel()


class Relayed:
    """What the owners of a relay have in common on the side of the client (`lb.protocol.messages.Exchange`)."""

    @property
    def relay(self) -> Relay | None:
        """Of the answer that is coming."""
        raise NotImplementedError

    @property
    def began(self) -> bool:
        return self.relay is not None and self.relay.began

    def client_writable(self, writable: bool) -> None:
        if self.relay is not None:
            self.relay.hold(not writable)

    def tunnelled(self, data: bytes) -> None:
        if self.relay is not None:
            self.relay.tunnelled(data)

    @property
    def is_between_chunks(self) -> bool:
        return self.relay is not None and self.relay.is_between_chunks

    def more(self) -> None:
        if self.relay is not None:
            self.relay.more()

    def check(self, now: float) -> None:
        """Nothing of it takes too long."""
