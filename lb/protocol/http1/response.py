"""The head of a worker's answer. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from config import replay
from lb.protocol.http1 import fields, heads

MAX_HEAD = 64 * 1024

_START = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*))?\r\n")

_TELL = replay.TELL.encode()

#: Written by us on the way to the client, or not for clients: what a server is made of is told to nobody, and a proxy
#: in front takes its orders (``X-Accel-Redirect``, ``X-Sendfile``) from us and not from a backend.
_DROPPED = fields.HOP_BY_HOP | {
    b"content-length", b"x-request-id", b"server", b"x-powered-by", b"x-aspnet-version", b"x-sendfile",
    b"x-accel-redirect", b"x-accel-buffering", b"x-accel-charset", b"x-accel-expires", b"x-accel-limit-rate",
    _TELL,
}  # fmt: skip


class Garbage(Exception):
    """Not an answer in HTTP/1.1, or not the one that was announced."""


@dataclass(slots=True)
class ResponseHead:
    """``length`` is None where no length is told; with ``chunked`` false as well, the body ends with the connection.
    ``media``: the media type of the body in small letters, empty where none is told. ``kept``: the field lines that go
    on, without CRLF. ``unbuffered``: its bytes are wanted as they come. ``bodiless``: no body follows, whatever the
    fields say (RFC 9112 6.3); none does in answer to HEAD either. ``tells``: the stream tells its tokens beside its
    events (`config.replay`). ``notes``: whatever its users want to remember with
    it."""

    status: int
    reason: bytes
    kept: list[bytes]
    length: int | None = None
    chunked: bool = False
    keep_alive: bool = True
    is_events: bool = False
    unbuffered: bool = False
    media: bytes = b""
    upgrade: bytes = b""
    bodiless: bool = False
    tells: bool = False
    notes: dict[object, bytes] = field(default_factory=dict)


def parse(data: bytes) -> ResponseHead:
    """``data``: a head with the empty line that ends it. Raises Garbage."""
    start = _START.match(data)
    if start is None:
        raise Garbage("it does not speak HTTP/1.1")
    found = fields.pairs(data[start.end() : -2])
    if found is None:
        raise Garbage("a header line is malformed")
    status = int(start[2])
    head = ResponseHead(status, start[3] or b"", [], keep_alive=start[1] == b"1")
    head.bodiless = status < 200 or status in (204, 304)
    named: list[bytes] = []
    for name, value in found:
        low = name.lower()
        if low in _DROPPED:
            if low == b"content-length":
                size = fields.length(value)
                if size is None or head.length is not None:
                    raise Garbage("Content-Length is not one number")
                head.length = size
            elif low == b"transfer-encoding":
                if head.chunked or value.strip(b" \t").lower() != b"chunked":
                    raise Garbage("a transfer coding other than chunked")
                head.chunked = True
            elif low == b"connection":
                named += fields.tokens(value)
            elif low == b"upgrade":
                head.upgrade = value
            elif low == _TELL:
                head.tells = True
            elif low == b"x-accel-buffering":
                head.unbuffered = head.unbuffered or value.strip(b" \t").lower() == b"no"
        else:
            if low == b"content-type":
                head.media = value.partition(b";")[0].strip(b" \t").lower()
                head.is_events = head.media == b"text/event-stream"
                head.unbuffered = head.unbuffered or head.is_events
            head.kept.append(name + b": " + value)
    if head.chunked and head.length is not None:
        raise Garbage("both Content-Length and Transfer-Encoding")
    if named:
        if b"close" in named:
            head.keep_alive = False
        extra = {name for name in named if name not in (b"close", b"keep-alive", b"upgrade")}
        if extra:
            head.kept = [line for line in head.kept if line.partition(b":")[0].lower() not in extra]
    return head


class Heads(heads.Heads[ResponseHead]):
    """Of the answers of one worker; `read` raises Garbage."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(parse)
