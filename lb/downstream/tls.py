"""TLS on a client's connection: between the socket and `ClientConnection` (or one of gRPC), which sees plain bytes and
knows nothing.

Not the event loop's own: that hides how much of an answer still waits here, knows no half-closed connections, and logs
what strangers send. Here the connection is what it is without TLS: it is counted when it is made, the handshake is part
of the time that its first head may take, and whatever asks of the socket is told of the socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from typing import Any, Protocol, cast

from lb.admission.crowd import Crowd
from lb.downstream.service import PeerView
from lb.protocol.errors import ProxyError

#: The first byte of a handshake (RFC 8446 5.1).
_HANDSHAKE = 22

#: Bytes of plain text that one record holds at most.
_RECORD = 16384

#: Records that are opened in one turn of the event loop: one may hold a single byte, and a socket gives thousands.
_MOST_RECORDS = 1000

_NOT_TLS = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"this port speaks TLS: its URL begins with https://\n"
)


class Wrapped(Protocol):
    """A connection that is a protocol of asyncio's, and says whose it is."""

    @property
    def peer(self) -> PeerView: ...
    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...
    def connection_lost(self, exc: Exception | None) -> None: ...
    def data_received(self, data: bytes) -> None: ...
    def eof_received(self) -> bool: ...
    def pause_writing(self) -> None: ...
    def resume_writing(self) -> None: ...


class TlsConnection(asyncio.Protocol, asyncio.Transport):
    """The protocol of the socket's transport, and the transport of ``connection``. ``context`` is asked for when the
    handshake begins: it may have been replaced. ``crowd`` counts handshakes as it counts uploads.
    More methods than a class should have: nearly all are those that asyncio asks of a protocol and of a transport."""

    __slots__ = (
        "_behind", "_connection", "_context", "_crowd", "_held", "_incoming", "_origin", "_outgoing", "_over", "_raw",
        "_shaken", "_tls",
    )  # fmt: skip

    _raw: asyncio.Transport

    def __init__(
        self, connection: Wrapped, context: Callable[[], ssl.SSLContext], crowd: Crowd
    ) -> None:
        self._connection, self._context, self._crowd = connection, context, crowd
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        #: The handshake is complete; nothing more is said, nor listened to.
        self._shaken = self._over = False
        #: Nothing is read from the socket, as there is something to do first; as the connection wants nothing.
        self._behind = self._held = False
        #: Of a handshake that counts.
        self._origin = ""

    # from the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._raw = cast(asyncio.Transport, transport)
        self._connection.connection_made(self)
        origin = self._connection.peer.origin
        origin = origin and f"{origin} in TLS handshakes"  # as many as uploads, and counted apart from them
        try:
            self._crowd.begin_body(origin)
        except ProxyError:
            self._raw.abort()
        else:
            self._origin = origin

    def connection_lost(self, exc: Exception | None) -> None:
        self._over = True
        self._handshake_is_over()
        self._connection.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._over or self._raw.is_closing():
            return
        self._incoming.write(data)
        if self._tls is None:
            if data[0] != _HANDSHAKE:
                self._raw.write(_NOT_TLS)
                self._raw.close()
                return
            self._tls = self._context().wrap_bio(self._incoming, self._outgoing, server_side=True)
        if self._shaken or (self._shake_hands(self._tls) and self._incoming.pending):
            self._read(self._tls)

    def eof_received(self) -> bool:
        return self._shaken and self._connection.eof_received()

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    # for the connection

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """Nothing before the handshake is complete: who is one too many is not worth one."""
        if self._tls is not None and self._shaken and not self._over and data:
            try:
                self._tls.write(data)
            except ssl.SSLError:
                self._raw.abort()
                return
            self._raw.write(self._outgoing.read())

    def write_eof(self) -> None:
        if self._shaken:
            self._say_end()
            self._raw.write_eof()
        else:
            self._raw.abort()

    def close(self) -> None:
        if not self._raw.is_closing():
            self._say_end()
            self._raw.close()

    def abort(self) -> None:
        """Without a word, so that what was sent cannot be taken for complete."""
        self._over = True
        self._raw.abort()

    def is_closing(self) -> bool:
        return self._raw.is_closing()

    def pause_reading(self) -> None:
        self._held = True
        self._raw.pause_reading()

    def resume_reading(self) -> None:
        self._held = False
        if not self._behind:
            self._raw.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._raw.get_extra_info(name, default)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._raw.get_write_buffer_size()

    # inside

    def _shake_hands(self, tls: ssl.SSLObject) -> bool:
        """As far as what has come goes; whether it is complete."""
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError:  # nothing for a log: everybody can send what is no TLS, or no certificate
            self._flush()  # why, for the client
            self._raw.close()
            return False
        self._flush()
        self._shaken = True
        self._handshake_is_over()
        return True

    def _handshake_is_over(self) -> None:
        self._crowd.end_body(self._origin)
        self._origin = ""

    def _read(self, tls: ssl.SSLObject) -> None:
        """All that has come, in one piece, as a socket gives it; what is too much for one turn in the next ones."""
        pieces: list[bytes] = []
        incoming, ended, broken, self._behind = self._incoming, False, False, False
        try:
            while True:
                if len(pieces) == _MOST_RECORDS:
                    self._behind = True
                    break
                piece = tls.read(_RECORD)
                if not piece:
                    ended = True
                    break
                pieces.append(piece)
                if not incoming.pending and not tls.pending():
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            ended = True
        except ssl.SSLError:
            broken = True
        if self._outgoing.pending:
            self._flush()  # the answer to a new key of the client's, or what was wrong
        if pieces:
            self._connection.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self._raw.is_closing():
            return
        if self._behind:
            self._raw.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_on, tls)
        elif broken:
            self._over = True
            self._raw.close()
        elif ended:  # the client's word that it is leaving: no HTTP client says it and waits for an answer
            self.close()

    def _read_on(self, tls: ssl.SSLObject) -> None:
        if self._over or self._raw.is_closing():
            return
        self._read(tls)
        if not (self._behind or self._held or self._raw.is_closing()):
            self._raw.resume_reading()

    def _say_end(self) -> None:
        """That nothing more comes: the client need not ask itself whether something is missing."""
        if self._tls is not None and self._shaken and not self._over:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._flush()
        self._over = True

    def _flush(self) -> None:
        if self._outgoing.pending:
            self._raw.write(self._outgoing.read())
