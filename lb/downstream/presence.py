"""Whether a client is still there while nothing is read from it: its kernel has told ours."""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios

#: Of TCP_INFO's states: the other side has reset the connection; it has ended its half of it.
_CLOSE, _CLOSE_WAIT = 7, 8


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
