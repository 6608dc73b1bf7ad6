"""The client at the other end of a connection, as the kernel knows it: where and whose it is, what has got to it, and
whether it is still there."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import Callable

from config.identity.peer_credentials import uid_of_peer
from lb.admission.pace import Pace
from lb.protocol.messages import Exchange, Limits

#: Of TCP_INFO's states: the other side has reset the connection; it has ended its half of it.
_CLOSE, _CLOSE_WAIT = 7, 8

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Peer:
    """``address`` and ``local``: the two ends; ``origin``: what the address is counted as. ``ended``: when it ended its
    half of the connection (s, monotonic), 0 while it has not."""

    __slots__ = ("_asked", "_pace", "_transport", "_uid", "address", "ended", "local", "origin")

    def __init__(self, transport: asyncio.Transport, counted_as: Callable[[str], str]) -> None:
        self._transport = transport
        peer, local = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        self.address = str(peer[0]) if peer else ""
        self.local = str(local[0]) if local else ""
        self.origin = counted_as(self.address)
        self.ended, self._asked = 0.0, False
        #: At which it takes what has been written and is not gone yet.
        self._pace: Pace | None = None
        self._uid: int | None = None

    def uid(self) -> int | None:
        """The user whose connection it is, None where the kernel does not tell. It is asked once: a connection does
        not change hands without its holder's help."""
        if self._uid is None:
            peer, local = (self._transport.get_extra_info(name) for name in ("peername", "sockname"))
            if peer and local:
                self._uid = uid_of_peer(peer[:2], local[:2])
        return self._uid

    # does it take what it is sent?

    def stops_reading(self, limits: Limits, now: float) -> None:
        """More is waiting for it than may."""
        self._pace = Pace(limits.send, limits.rate, now, -self._unsent())

    def reads_again(self) -> None:
        self._pace = None

    @property
    def has_taken_all(self) -> bool:
        """Or as good as all."""
        return self._pace is None

    def is_too_slow(self, now: float) -> bool:
        """To be asked now and then (s, monotonic)."""
        return self._pace is not None and self._pace.is_slow(now, -self._unsent())

    def _unsent(self) -> int:
        """Bytes of answers that have not got to it: what waits here, and what the kernel holds, which may be megabytes
        and says it is writable again when a third of them has gone (SIOCOUTQ, tcp(7))."""
        sock, held = self._transport.get_extra_info("socket"), 0
        if sock is not None and sock.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):
                held = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0]
        return self._transport.get_write_buffer_size() + held

    # is it still there?

    def has_left(self, missing: int) -> bool:
        """``missing``: bytes of a body that have to come yet; they may lie unread before the client's end."""
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.family == socket.AF_UNIX:
            return False
        try:
            state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
            if state != _CLOSE_WAIT or self.ended:
                return bool(state == _CLOSE)
            unread = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0\0\0\0"))[0]
        except OSError:
            return True
        # One that ends behind so many requests sent ahead that they are not read is not taken to wait for the answers.
        return missing <= 0 or unread < missing

    def ask_if_there(self, exchange: Exchange, *, speaks_chunked: bool) -> bool:
        """False if it has to be taken for gone. One that has ended its half of the connection looks like one that has
        left until something is written: then the kernel of one that has left resets the connection. So something is
        written, once, that means nothing. To a client of HTTP/1.1 that has got nothing yet, a 100, which every one has
        to understand (RFC 9110 15.2); between two chunks, a zero that the next one's size begins with. For one of
        HTTP/1.0 that has got nothing there is no such word: there the end counts as having left, as uvicorn and nginx
        take it for all."""
        if self._asked:
            return True
        if not exchange.began and not speaks_chunked:
            return False
        if not exchange.began or exchange.is_between_chunks:
            self._asked = True
            self._transport.write(b"0" if exchange.began else CONTINUE)
        return True
