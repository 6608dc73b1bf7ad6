"""The chunked coding (RFC 9112 7.1): taken apart, and passed on without being taken apart. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

#: A size line as every server writes it: not zero, no extension.
_PLAIN = re.compile(rb"([1-9A-Fa-f][0-9A-Fa-f]{0,7})\r\n")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,12})([ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?)\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")

#: Bytes of one size line, and of all trailers.
_MAX_LINE, _MAX_TRAILERS = 4096, 16 * 1024

LAST = b"0\r\n\r\n"

#: A size that is looked up: not zero, up to 4 KiB.
_SMALL = re.compile(rb"[1-9A-Fa-f][0-9A-Fa-f]{0,2}")


class _ChunkLengths(dict[bytes, int]):
    """How long a chunk is as a whole (size line, payload, end) by the digits of its size; 0 for what is no plain size
    of up to 4 KiB. Filled as sizes are met: those of a stream are few, and so stay in the processor's cache."""

    def __missing__(self, digits: bytes) -> int:
        if not _SMALL.fullmatch(digits):
            return 0
        self[digits] = total = int(digits, 16) + len(digits) + 4
        return total


_TOTALS = _ChunkLengths()


def _size_lines(longest: int) -> Iterator[bytes]:
    """Of a chunk of each length as a whole, the size line that makes it one, as servers write it: in small letters."""
    for total in range(longest + 1):
        lines = (b"%x\r\n" % (total - 4 - digits) for digits in (1, 2, 3) if total > 4 + digits)
        yield next((line for line in lines if len(line) + int(line, 16) + 2 == total), b"\n")


#: How a chunk of that length begins; with what none does where no chunk has it.
_LINES = tuple(_size_lines(2048))

#: Bytes of several chunks that go on together.
_MOST_TOGETHER = 8192


def payload_of(data: bytes) -> int:
    """Where the payload begins if ``data`` is one whole chunk, 0 if it is several; -1 if it is anything else, such as
    the last one or one of more than 4 KiB."""
    size = len(data)
    if size < len(_LINES) and data.startswith(line := _LINES[size]) and data.endswith(b"\r\n"):
        return len(line)
    return 0 if size <= _MOST_TOGETHER and _is_whole(data) else -1


#: What is made of whole chunks on their way, None if somebody has to look at them; the number is that of `payload_of`.
Cut = Callable[[bytes, int], bytes | None]


def _is_whole(data: bytes) -> bool:
    """Whether ``data`` is nothing but whole chunks, none of them the last, all plainly written and of up to 4 KiB."""
    position, end = 0, len(data)
    while position < end:
        total = _TOTALS[data[position : data.find(b"\r\n", position, position + 10)]]
        if not total:
            return False
        position += total
        if data[position - 2 : position] != b"\r\n":
            return False
    return position == end


class BadChunk(Exception):
    """Not the chunked coding."""


def frame(payload: bytes) -> bytes:
    """``payload`` (not empty) as one chunk."""
    return b"%x\r\n%b\r\n" % (len(payload), payload)


class Decoder:
    """Takes a chunked body apart. ``strict``: extensions are refused, as they are used for nothing but mischief."""

    __slots__ = ("_left", "_pending", "_strict", "_trailers", "ended", "rest")

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._left = 0  # bytes of the running chunk still to come, its CRLF included
        self._pending = b""
        self._trailers = -1  # bytes of trailers so far; -1 before the last chunk
        self.ended = False
        self.rest = b""  # what came behind the end

    @property
    def between_chunks(self) -> bool:
        """Nothing is kept back and no chunk is under way."""
        return not self._left and not self._pending and self._trailers < 0

    def feed(self, data: bytes) -> bytes:
        """The payload in ``data``. Raises BadChunk."""
        if self._pending:
            data, self._pending = self._pending + data, b""
        elif not self._left and self._trailers < 0:
            if (start := payload_of(data)) > 0:
                return data[start:-2]
            if data.endswith(LAST) and (start := payload_of(data[: -len(LAST)])) > 0:
                self._trailers, self.ended = 0, True
                return data[start : -2 - len(LAST)]
        parts: list[bytes] = []
        position, end = 0, len(data)
        while position < end and not self.ended:
            if self._left:
                position = self._payload(data, position, parts)
            elif self._trailers >= 0:
                position = self._trailer(data, position)
            else:
                position = self._size(data, position)
            if position < 0:
                return b"".join(parts)
        if self.ended:
            self.rest = data[position:]
        return b"".join(parts)

    def _payload(self, data: bytes, position: int, parts: list[bytes]) -> int:
        body = self._left - 2
        if body > 0:
            part = data[position : position + body]
            parts.append(part)
            self._left -= len(part)
            position += len(part)
            if self._left > 2:
                return position
        ending = data[position : position + self._left]
        if ending != b"\r\n"[2 - self._left :][: len(ending)]:
            raise BadChunk("a chunk is longer than it says")
        self._left -= len(ending)
        return position + len(ending)

    def _size(self, data: bytes, position: int) -> int:
        match = _SIZE.match(data, position)
        if match is None:
            return self._wait(data, position, rb"[0-9A-Fa-f]{1,12}(?:[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?)?\r?")
        if match[2] and (self._strict or len(match[2]) > _MAX_LINE):
            raise BadChunk("a chunk extension")
        size = int(match[1], 16)
        if size:
            self._left = size + 2
        else:
            self._trailers = 0
        return match.end()

    def _trailer(self, data: bytes, position: int) -> int:
        if data.startswith(b"\r\n", position):
            self.ended = True
            return position + 2
        match = _TRAILER.match(data, position)
        if match is None:
            return self._wait(data, position, rb"\r|[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?::[\t\x20-\x7e\x80-\xff]*\r?)?")
        self._trailers += match.end() - position
        if self._trailers > _MAX_TRAILERS or match.end() - position > _MAX_LINE:
            raise BadChunk("too many trailers")
        return match.end()

    def _wait(self, data: bytes, position: int, beginning: bytes) -> int:
        """For the rest of a line, if what is there is the beginning of one."""
        rest = data[position:]
        if len(rest) > _MAX_LINE or not re.fullmatch(beginning, rest):
            raise BadChunk("no chunk size" if self._trailers < 0 else "a malformed trailer")
        self._pending = rest
        return -1


class Passage:
    """Passes a chunked body on as it came, and knows where it ends. What no client needs to see (extensions, trailers)
    is left out; half a size line is kept back until the rest of it is there."""

    __slots__ = ("_decoder", "_left", "ended", "rest")

    def __init__(self) -> None:
        self._left = 0  # bytes of the running chunk still to come, its CRLF included
        self._decoder: Decoder | None = None
        self.ended = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """What goes on, in chunked coding, its end included. Raises BadChunk."""
        if self._decoder is not None:
            return self._recode(data)
        end, position = len(data), self._left
        if position > end:
            if position == end + 1 and data[-1:] != b"\r":
                raise BadChunk("a chunk is longer than it says")
            self._left = position - end
            return data
        if position and data[max(0, position - 2) : position] != (b"\r\n" if position > 1 else b"\n"):
            raise BadChunk("a chunk is longer than it says")
        while position < end:
            match = _PLAIN.match(data, position)
            if match is None:
                if data.startswith(LAST, position):
                    self.ended, self.rest = True, data[position + 5 :]
                    return data[: position + 5] if self.rest else data
                self._decoder = Decoder(strict=False)
                try:
                    rest = self._recode(data[position:])
                except BadChunk:
                    self._decoder = None  # nothing of this goes out: `interrupt` goes on from what has
                    raise
                self._left = 0
                return data[:position] + rest
            position = match.end() + int(match[1], 16) + 2
            if position <= end:
                if data[position - 2 : position] != b"\r\n":
                    raise BadChunk("a chunk is longer than it says")
            elif position == end + 1 and data[-1:] != b"\r":
                raise BadChunk("a chunk is longer than it says")
        self._left = position - end
        return data

    @property
    def between_chunks(self) -> bool:
        """Whether the next bytes begin a chunk, and nothing is kept back."""
        return not self._left and self._decoder is None

    def interrupt(self, payload: bytes) -> bytes:
        """``payload`` as the last bytes of a body that comes to no end, fitted in where it has got to."""
        room = self._left - 2
        if room >= len(payload):
            return payload
        if room > 0:
            return payload[:room] + b"\r\n" + frame(payload[room:])
        return b"\r\n"[2 - self._left :] + frame(payload)

    def _recode(self, data: bytes) -> bytes:
        """The way for what is not plain: taken apart and put together again, from one chunk's beginning on."""
        assert self._decoder is not None
        payload = self._decoder.feed(data)
        out = frame(payload) if payload else b""
        if self._decoder.ended:
            self.ended, self.rest = True, self._decoder.rest
            out += LAST
        elif self._decoder.between_chunks:
            self._decoder = None  # back to the short way
        return out
