"""What the kernel knows of a client's connection: whether the client is still there, and what has got to it."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios

#: Of TCP_INFO's states: the other side has reset the connection; it has ended its half of it.
_CLOSE, _CLOSE_WAIT = 7, 8


def unsent(transport: asyncio.Transport | None) -> int:
    """Bytes of answers that have not got to the client: what waits here, and what the kernel holds, which may be
    megabytes and says it is writable again when a third of them has gone (SIOCOUTQ, tcp(7))."""
    if transport is None:
        return 0
    sock, held = transport.get_extra_info("socket"), 0
    if sock is not None and sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            held = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0]
    return transport.get_write_buffer_size() + held


def has_left(transport: asyncio.Transport | None, *, missing: int, may_have_ended: bool) -> bool:
    """``missing``: bytes of a body that have to come yet; they may lie unread before the client's end.
    ``may_have_ended``: it is known to send no more, and waits for its answer."""
    sock = transport.get_extra_info("socket") if transport is not None else None
    if sock is None or sock.family == socket.AF_UNIX:
        return False
    try:
        state = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state != _CLOSE_WAIT or may_have_ended:
            return bool(state == _CLOSE)
        unread = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.FIONREAD, b"\0\0\0\0"))[0]
    except OSError:
        return True
    # One that ends behind so many requests sent ahead that they are not read is not taken to wait for the answers.
    return missing <= 0 or unread < missing
