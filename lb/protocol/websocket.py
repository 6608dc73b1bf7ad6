"""Where the frames of a WebSocket end (RFC 6455 5.2), to know when one of our own can be put between. Pure."""

from __future__ import annotations

#: Close, 1012 "service restart": the worker behind the socket is lost.
CLOSE_RESTART = b"\x88\x02\x03\xf4"


class Frames:
    """Follows what a server sends. ``between``: no frame is under way."""

    __slots__ = ("_head", "_left")

    def __init__(self) -> None:
        self._head = b""
        self._left = 0

    @property
    def between(self) -> bool:
        return not self._head and not self._left

    def feed(self, data: bytes) -> None:
        position, end = 0, len(data)
        while position < end:
            if self._left:
                step = min(self._left, end - position)
                self._left -= step
                position += step
                continue
            self._head += data[position : position + 1]
            position += 1
            size = _size(self._head)
            if size is not None:
                self._head, self._left = b"", size


def _size(head: bytes) -> int | None:
    """Bytes that follow a frame's head; None while the head is not complete."""
    if len(head) < 2:
        return None
    length, mask = head[1] & 0x7F, 4 if head[1] & 0x80 else 0
    extended = {126: 2, 127: 8}.get(length, 0)
    if len(head) < 2 + extended + mask:
        return None
    return int.from_bytes(head[2 : 2 + extended], "big") if extended else length
