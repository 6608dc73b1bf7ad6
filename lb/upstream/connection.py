"""One connection to a worker: sends a request, reads the answer to its end, and no further.

What arrives is handed to the reader in the same turn of the event loop, as it came: no queue, no task. Only the framing
is understood, because where the answer ends has to be known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from enum import Enum, auto
from time import monotonic
from typing import Protocol, cast

from lb.protocol.http1 import response
from lb.protocol.http1.chunked import BadChunk, Cut, Decoder, Passage, payload_of
from lb.protocol.http1.response import Garbage, ResponseHead
from lb.telemetry.model_metrics import BATCH, RequestRecorder


class Reader(Protocol):
    """Who gets an answer. A reader that wants no more calls `WorkerConnection.drop`."""

    #: Whether a chunked body may come in chunked coding, or is to be taken apart; asked after `on_head`.
    raw: bool
    #: Whether nothing of what came is kept back, so that the next chunk may go past it.
    aligned: bool

    def on_head(self, head: ResponseHead) -> None: ...
    def on_body(self, data: bytes) -> None: ...
    def on_end(self) -> None: ...
    def on_whole(self, head: ResponseHead, body: bytes) -> None:
        """Instead of all the others: an answer of 200 that came in one piece. Its connection is free again."""

    def on_failure(self, reason: str) -> None:
        """The answer cannot come to its end. Nothing follows."""

    def on_writable(self, writable: bool) -> None:
        """Whether more of the request's body is wanted."""


class _Framing(Enum):
    IDLE = auto()
    HEAD = auto()
    LENGTH = auto()
    CHUNKED = auto()
    UNTIL_CLOSE = auto()
    TUNNEL = auto()
    CLOSED = auto()


def _nowhere(data: bytes) -> None:
    """Nothing goes straight through yet."""


class WorkerConnection(asyncio.Protocol):
    """``released`` is called when an answer has ended and the connection can carry another request; ``gone`` when it
    is closed. ``idle_since``: s, monotonic, set by whoever keeps it.

    More attributes than a class should have: in parts, each chunk would pay for the way from one to the other."""

    __slots__ = (
        "_at", "_body", "_buffer", "_cut", "_gone", "_heads", "_keep", "_left", "_method", "_paused", "_reader",
        "_recorder", "_released", "_sending", "_served", "_straight", "_write", "endpoint", "idle_since", "stale",
        "transport",
    )  # fmt: skip

    def __init__(
        self, endpoint: object, released: Callable[[WorkerConnection], None], gone: Callable[[WorkerConnection], object]
    ) -> None:
        self.endpoint = endpoint
        self._released, self._gone = released, gone
        self._at = _Framing.IDLE
        self._reader: Reader | None = None
        self._heads = response.Heads()
        self._buffer = b""
        self._left = 0
        self._body: Passage | Decoder | None = None
        self._keep = self._sending = self._paused = False
        self._write: Callable[[bytes], None] = _nowhere
        self._cut: Cut | None = None
        self._recorder: RequestRecorder | None = None
        self._straight: RequestRecorder | None = None  # set while the next bytes may go straight through
        self._method = ""
        self._served = False
        #: It was closed between two requests, before a byte of an answer to the second: the worker has not read it.
        self.stale = False
        self.idle_since = 0.0
        self.transport: asyncio.Transport | None = None

    # for whoever asks

    @property
    def usable(self) -> bool:
        return self._at is _Framing.IDLE and self.transport is not None and not self.transport.is_closing()

    @property
    def passage_is_plain(self) -> bool:
        """A body in chunked coding is between two chunks."""
        return self._body is not None and self._body.between_chunks

    @property
    def passage(self) -> Passage | None:
        """Where a body that goes through in chunked coding has got to."""
        return self._body if isinstance(self._body, Passage) else None

    def ask(self, reader: Reader, method: str, head: bytes, body: bytes = b"", *, more: bool = False) -> None:
        """Sends a request; with ``more``, further parts of its body come by `send`."""
        assert self.transport is not None and self._at is _Framing.IDLE
        self._reader, self._method = reader, method
        self._at, self._sending = _Framing.HEAD, more
        if len(body) > 65536:
            self.transport.writelines((head, body))
        else:
            self.transport.write(head + body if body else head)

    def send(self, pieces: Iterable[bytes], *, last: bool = False) -> None:
        """``last``: then the request is complete."""
        assert self.transport is not None
        self.transport.writelines(pieces)
        self._sending = self._sending and not last

    def drop(self, reader: Reader | None = None) -> None:
        """Nobody wants the rest: closed at once, which tells the worker to stop. Of no effect for a ``reader`` whose
        answer has ended: the connection may be another's."""
        if reader is not None and reader is not self._reader:
            return
        self._reader, self._at, self._straight = None, _Framing.CLOSED, None
        if self.transport is not None:
            self.transport.abort()

    def go_straight(
        self, write: Callable[[bytes], None], recorder: RequestRecorder, cut: Cut | None = None
    ) -> None:
        """From now on a chunk that comes whole and plain goes to ``write`` as it is, or what ``cut`` makes of it, and
        into ``recorder``; the reader hears of everything else, and of that of which ``cut`` makes None. For the body
        that is under way."""
        self._write, self._recorder, self._cut = write, recorder, cut

    def hold(self, reader: Reader, paused: bool) -> None:
        """Whether ``reader`` cannot take more now. Of no effect once its answer has ended."""
        if reader is self._reader and self.transport is not None and not self.transport.is_closing():
            self._paused = paused
            if paused:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    # from the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)  # uvloop's are of no asyncio class
        self.transport = transport
        if self._at is _Framing.CLOSED:
            transport.abort()

    def pause_writing(self) -> None:
        if self._reader is not None:
            self._reader.on_writable(False)

    def resume_writing(self) -> None:
        if self._reader is not None:
            self._reader.on_writable(True)

    def connection_lost(self, exc: Exception | None) -> None:
        at, reader = self._at, self._reader
        self.stale = self._served and at is _Framing.HEAD and not self._buffer
        self._at, self._reader = _Framing.CLOSED, None
        self._gone(self)
        if reader is None:
            return
        if at in (_Framing.UNTIL_CLOSE, _Framing.TUNNEL) and exc is None:
            reader.on_end()
        else:
            reader.on_failure(_words(exc) if exc else "it closed the connection")

    def data_received(self, data: bytes) -> None:
        recorder = self._straight
        if recorder is not None:
            # Most of what a balancer does.
            start = payload_of(data)
            if start >= 0:
                out = data if (cut := self._cut) is None else cut(data, start)
                if out is not None:
                    self._write(out)
                    recorder.stamps.append(monotonic())
                    (latest := recorder.latest).append(data)
                    if len(latest) >= BATCH:
                        recorder.count()
                    return
            self._straight = None
        at = self._at
        if at is _Framing.HEAD:
            self._head(self._buffer + data if self._buffer else data)
        elif at is _Framing.CHUNKED:
            self._chunks(data)
        elif at is _Framing.LENGTH:
            self._counted(data)
        elif at is _Framing.UNTIL_CLOSE or at is _Framing.TUNNEL:
            assert self._reader is not None
            self._reader.on_body(data)
        else:
            self._at = _Framing.CLOSED  # it speaks without being asked
            if self.transport is not None:
                self.transport.abort()

    def _chunks(self, data: bytes) -> None:
        body, reader = self._body, self._reader
        assert body is not None and reader is not None
        try:
            out = body.feed(data)
        except BadChunk as error:
            self._fail(str(error))
            return
        if body.ended:
            self._finish(out, body.rest)
        elif out:
            reader.on_body(out)
            if self._recorder is not None and self._reader is reader and reader.aligned and self.passage_is_plain:
                self._straight = self._recorder

    def _counted(self, data: bytes) -> None:
        left = self._left - len(data)
        if left <= 0:
            self._finish(data, data[left:] if left else b"")
        else:
            self._left = left
            assert self._reader is not None
            self._reader.on_body(data)

    def _head(self, data: bytes) -> None:
        while (end := data.find(b"\r\n\r\n")) >= 0:
            try:
                head = self._heads.read(data[: end + 4])
            except Garbage as error:
                self._fail(str(error))
                return
            data = data[end + 4 :]
            if head.status == 200 and head.length == len(data) and self._method != "HEAD":
                reader = self._reader
                assert reader is not None
                self._keep, self._buffer = head.keep_alive, b""
                self._release()
                reader.on_whole(head, data)
                return
            if head.status >= 200 or head.status == 101:
                self._buffer = b""
                self._begin(head, data)
                return
        self._buffer = data
        if len(data) > response.MAX_HEAD:
            self._fail("its head is too large")
        elif not _MAY_BE.startswith(data[:7]):
            self._fail("it does not speak HTTP/1.1")

    def _begin(self, head: ResponseHead, rest: bytes) -> None:
        reader = self._reader
        assert reader is not None
        self._keep = head.keep_alive
        reader.on_head(head)
        if self._reader is not reader:
            return
        if head.status == 101:
            self._at = _Framing.TUNNEL
            if rest:
                reader.on_body(rest)
        elif head.bodiless or self._method == "HEAD":
            self._finish(b"", rest)
        elif head.chunked:
            self._at, self._body = _Framing.CHUNKED, Passage() if reader.raw else Decoder(strict=False)
            if rest:
                self._chunks(rest)
        elif head.length is not None:
            if len(rest) == head.length:
                self._finish(rest, b"")
            else:
                self._at, self._left = _Framing.LENGTH, head.length
                if rest:
                    self._counted(rest)
        else:
            self._at, self._keep = _Framing.UNTIL_CLOSE, False
            if rest:
                reader.on_body(rest)

    def _finish(self, last: bytes, extra: bytes) -> None:
        if extra:
            self._fail("it sent more than it announced")
            return
        reader = self._reader
        assert reader is not None
        if last:
            reader.on_body(last)
            if self._reader is not reader:
                return
        if self._paused:
            self.hold(reader, False)  # it was by the last bytes: the next one has to be heard
        self._release()
        reader.on_end()

    def _release(self) -> None:
        """The answer has ended."""
        transport = self.transport
        assert transport is not None
        self._reader = None
        if self._body is not None:
            self._body = self._recorder = self._straight = self._cut = None
        if self._keep and not self._sending and not transport.get_write_buffer_size():
            self._at, self._served = _Framing.IDLE, True
            self._released(self)
        else:
            self._at = _Framing.CLOSED
            transport.abort()

    def _fail(self, reason: str) -> None:
        reader = self._reader
        self.drop()
        if reader is not None:
            reader.on_failure(reason)


_MAY_BE = b"HTTP/1."


def _words(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
