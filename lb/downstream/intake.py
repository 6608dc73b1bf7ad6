"""The body of one request on its way in: out of its framing, and read as far as somebody has to know what it says.

A large one takes longer to read than others should wait, so it is read for a millisecond at a time. It is kept in
pieces, which are never put together: that would take its size once more, and a long turn of the event loop.
"""

from __future__ import annotations

from collections import deque
from time import perf_counter

from lb.protocol.body import Scan
from lb.protocol.facts import Facts
from lb.protocol.http1.chunked import BadChunk, Decoder
from lb.protocol.http1.request import Malformed

#: Bytes that are read in one go; seconds until others have their turn; bytes of a piece that is kept.
_STEP, _TURN_S, _PIECE = 4096, 0.001, 64 * 1024


class BodyIntake:
    """``length`` in bytes, None for a chunked body; ``most`` there may be of that. ``scan`` is given all of it before
    anybody else sees it. ``size``: bytes that have been read. ``rest``: what came behind the end."""

    __slots__ = ("_at", "_decoder", "_left", "_most", "_pieces", "_raw", "_tail", "complete", "facts", "rest", "scan",
                 "size")  # fmt: skip

    def __init__(self, length: int | None, most: int, scan: Scan | None) -> None:
        self.scan, self._most = scan, most
        self._decoder = Decoder(strict=True) if length is None else None
        self._left = length or 0
        self._raw, self._at = b"", 0
        self._pieces: deque[bytes] = deque()
        self._tail = bytearray()
        self.size = 0
        self.complete = False
        self.facts: Facts | None = None  # once it is complete
        self.rest = b""

    @property
    def missing(self) -> int:
        """Bytes that have to come before it can be complete, as far as that is known."""
        return 1 if self._decoder is not None else self._left - (len(self._raw) - self._at)

    def add(self, data: bytes) -> None:
        """What has come."""
        self._raw = self._raw[self._at :] + data if self._at < len(self._raw) else data
        self._at = 0

    def read(self) -> bool:
        """Reads for a millisecond; False: there is more to be read. Raises Malformed, and ProxyError for a body that is
        refused for what it says."""
        end = perf_counter() + _TURN_S
        while self._at < len(self._raw) and not self.complete:
            piece = self._next()
            self.size += len(piece)
            if self.size > self._most:
                raise Malformed(413, f"a body of more than {self._most} bytes")
            if self.scan is not None:
                self.scan.feed(piece)
            self._tail += piece
            if len(self._tail) >= _PIECE:
                self._flush()
            if perf_counter() >= end and not self.complete:
                break
        if self._at < len(self._raw) and not self.complete:
            return False
        self._raw, self._at = b"", 0
        if self.complete and self.scan is not None and self.facts is None:
            self.facts = self.scan.facts()
        return True

    def take(self) -> deque[bytes]:
        """What has been read and not been taken."""
        self._flush()
        taken, self._pieces = self._pieces, deque()
        return taken

    def _next(self) -> bytes:
        """The next few bytes of the body."""
        piece = self._raw[self._at : self._at + _STEP]
        self._at += len(piece)
        if self._decoder is None:
            if len(piece) >= self._left:
                self.complete = True
                self.rest = piece[self._left :] + self._raw[self._at :]
                piece = piece[: self._left]
            self._left -= len(piece)
            return piece
        try:
            payload = self._decoder.feed(piece)
        except BadChunk as error:
            raise Malformed(400, f"a malformed chunked body: {error}") from None
        if self._decoder.ended:
            self.complete = True
            self.rest = self._decoder.rest + self._raw[self._at :]
        return payload

    def _flush(self) -> None:
        if self._tail:
            self._pieces.append(bytes(self._tail))
            self._tail.clear()


class SmallBody:
    """As `BodyIntake`, of so few bytes that they are read at once, and whose words nobody wants to know on the way."""

    __slots__ = ("_data", "_length", "facts", "rest", "scan")

    def __init__(self, length: int) -> None:
        self._data, self._length = bytearray(), length
        self.facts: Facts | None = None
        self.scan: Scan | None = None
        self.rest = b""

    @property
    def size(self) -> int:
        return len(self._data)

    @property
    def missing(self) -> int:
        return self._length - len(self._data)

    @property
    def complete(self) -> bool:
        return not self.missing

    def add(self, data: bytes) -> None:
        missing = self.missing
        self._data += data[:missing]
        self.rest = data[missing:]

    def read(self) -> bool:
        return True

    def take(self) -> deque[bytes]:
        return deque((bytes(self._data),))
