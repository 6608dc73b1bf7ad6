"""Where the frames of HTTP/2 end in what a server sends, so that one of ours can stand between two of them. Pure.

A server of `grpc` that is told to stop refuses calls that its clients have sent before they heard of it. So it is not
told before they have heard: GOAWAY with the highest number of a stream says that another connection is wanted for new
calls, and that all on this one are answered (RFC 9113 6.8).
"""

from __future__ import annotations

#: 8 bytes, type 7, no flags, of the connection; the highest number, no error.
GOAWAY = b"\0\0\x08\x07\0\0\0\0\0" + b"\x7f\xff\xff\xff" + b"\0\0\0\0"

_HEAD = 9

#: Types with a part of a header block, which nothing may interrupt, and the flag of its last part (RFC 9113 6.2).
_BLOCK, _END_HEADERS = frozenset({1, 5, 9}), 4


class FrameReader:
    """Of one direction of one connection, from its first byte on."""

    __slots__ = ("_head", "_in_block", "_left", "_seen")

    def __init__(self) -> None:
        self._head = bytearray()
        self._left = 0
        self._in_block = self._seen = False

    @property
    def between(self) -> bool:
        """Whether what has come ends with a frame, and another may stand behind it. The first has to be the server's
        own: its settings."""
        return self._seen and not (self._head or self._left or self._in_block)

    def feed(self, data: bytes) -> int | None:
        """Where in ``data`` the first frame ends behind which another may stand; None: nowhere."""
        at, found, size = 0, None, len(data)
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
            else:
                part = data[at : at + _HEAD - len(self._head)]
                self._head += part
                at += len(part)
                if len(self._head) < _HEAD:
                    break
                self._left = int.from_bytes(self._head[:3])
                if self._head[3] in _BLOCK:
                    self._in_block = not self._head[4] & _END_HEADERS
                self._head.clear()
            if not self._left:
                self._seen = True
                if found is None and not self._in_block:
                    found = at
        return found
