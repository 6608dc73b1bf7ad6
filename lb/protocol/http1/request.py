"""The head of a request: read once, strictly. Pure.

Request smuggling lives on two readers that understand one message differently. What is not plainly HTTP/1.1 as RFC 9112
writes it is refused, also where that RFC would let a recipient guess; what goes on to a worker is written anew from
what was understood here.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any

from config import replay
from lb.protocol.http1 import fields, heads

#: Bytes of the start line with all fields, and fields in number.
MAX_HEAD = 64 * 1024
MAX_FIELDS = 128

#: A target is of visible characters, without a fragment; those that RFC 3986 does not have but browsers send in queries
#: are let through as they are.
_START = re.compile(rb"(" + fields.TOKEN + rb") ([\x21\x22\x24-\x7e]+) HTTP/([0-9])\.([0-9])\r\n")
_HOST = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|((?:[A-Za-z0-9\-._~!$&'()*+;=]|%[0-9A-Fa-f]{2})*))(?::[0-9]{1,5})?")
_URL = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]*)(.*)", re.DOTALL)

#: Names the model on one route (`lb.protocol.sagemaker`).
ADAPTER = b"x-amzn-sagemaker-adapter-identifier"

#: Says how urgent a request is (RFC 9218): ``u=7`` is for background tasks (4.1), in a dictionary (RFC 8941), with or
#: without parameters. No other value counts: browsers send ``u=0`` by themselves.
PRIORITY = b"priority"
_BACKGROUND = re.compile(rb"(?:^|,)[ \t]*u=7[ \t]*(?:[;,]|$)")

#: Fields that are for us, or that we write ourselves on the way to a worker.
_OURS = frozenset(
    {
        b"host", b"content-length", b"expect", b"authorization", b"x-api-key", b"x-request-id", b"x-forwarded-for",
        b"x-forwarded-proto", b"x-forwarded-host", b"forwarded", b"x-cluster-principal",
        b"x-cluster-peer", ADAPTER, PRIORITY, replay.TELL.encode(), *fields.HOP_BY_HOP,
    }
)  # fmt: skip

#: A reader that maps names to variables (CGI, WSGI) takes ``Transfer_Encoding`` for ``Transfer-Encoding``: of the names
#: that mean something to us, such a spelling is refused. Other names with an underscore are left out, as nginx does.
_MISSPELT = frozenset(name.replace(b"-", b"_") for name in (*_OURS, b"content-type"))

#: Of these a second one is added to the first, after a comma: whoever looks for one key finds none that there is.
_JOINED = frozenset({b"x-forwarded-for", b"connection", b"authorization", b"x-api-key"})

#: Of these a second one is refused: each reader would pick another.
_ONCE = frozenset({b"host", b"content-length", b"transfer-encoding", b"expect", ADAPTER})


#: Longer ids than this, or with anything but visible characters, are replaced: they stand in logs.
_LONGEST_ID = 128


class Malformed(Exception):
    """Not a request that this server reads; ``status`` is the answer. The connection is of no further use."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(slots=True)
class RequestHead:
    """``target`` as sent, from its first slash on, ``path`` the same without its query; ``length`` is None for a
    chunked body, 0 for none. ``kept``: the other field lines as they are, without CRLF and without names that have an
    underscore; `lb.upstream.headers` says which of them go on. ``ours``: values of the fields in `_OURS`, lower-case
    names, the first of each, or
    all of them (`_JOINED`). ``background``: it says that it is in no hurry. ``notes``: whatever its users want to
    remember with it."""

    method: str
    target: str
    version: int
    host: str
    length: int | None
    keep_alive: bool
    kept: list[bytes]
    ours: dict[bytes, bytes] = field(default_factory=dict)
    content_type: str = ""
    upgrade: bool = False
    background: bool = False
    path: str = ""
    notes: dict[object, Any] = field(default_factory=dict)

    @property
    def has_body(self) -> bool:
        return self.length != 0

    @property
    def expects_continue(self) -> bool:
        return b"expect" in self.ours and self.version == 1

    @property
    def request_id(self) -> str:
        """The client's own, if it can be passed on; "" otherwise."""
        given = self.ours.get(b"x-request-id", b"").strip(b" \t")
        usable = len(given) <= _LONGEST_ID and all(0x21 <= byte <= 0x7E for byte in given)
        return given.decode() if usable else ""

    def find(self, name: bytes) -> str | None:
        """Any field's first value by its lower-case name."""
        if (value := self.ours.get(name)) is not None:
            return value.decode("latin-1").strip(" \t")
        for line in self.kept:
            key, _, value = line.partition(b":")
            if key.lower() == name:
                return value.decode("latin-1").strip(" \t")
        return None


def parse(data: bytes) -> RequestHead:
    """``data``: a head with the empty line that ends it. Raises Malformed."""
    if len(data) > MAX_HEAD:
        raise Malformed(431, f"a head of more than {MAX_HEAD} bytes")
    start = _START.match(data)
    if start is None:
        raise Malformed(400, "the request line is not HTTP")
    method, target, major, minor = start.groups()
    if major != b"1" or minor not in b"01":
        raise Malformed(505, "HTTP/1.1 is spoken here")
    found = fields.pairs(data[start.end() : -2])
    if found is None:
        raise Malformed(400, "a header line is malformed")
    if len(found) > MAX_FIELDS:
        raise Malformed(431, f"more than {MAX_FIELDS} header fields")
    head = RequestHead(method.decode(), "", int(minor), "", 0, minor == b"1", [])
    ours, kept, typed = head.ours, head.kept, False
    for name, value in found:
        low = name.lower()
        if low in _OURS:
            if low in ours:
                if low in _ONCE:
                    raise Malformed(400, f"two {name.decode()} headers")
                if low in _JOINED:
                    ours[low] += b", " + value
                continue
            ours[low] = value
        elif b"_" in low:
            if low.replace(b"-", b"_") in _MISSPELT:
                raise Malformed(400, f"a header {name.decode()}: its name is written with hyphens")
        else:
            if low == b"content-type":
                if typed:
                    raise Malformed(400, "two Content-Type headers")
                typed = True
                head.content_type = value.decode("latin-1")
            kept.append(name + b": " + value)
    _read_target(head, target)
    _read_connection(head)
    _read_framing(head)
    head.background = _BACKGROUND.search(ours.get(PRIORITY, b"")) is not None
    if (expect := ours.get(b"expect")) is not None and expect.strip(b" \t").lower() != b"100-continue":
        raise Malformed(417, "only Expect: 100-continue is met here")
    return head


def _read_target(head: RequestHead, target: bytes) -> None:
    host = head.ours.get(b"host")
    if host is None:
        if head.version == 1:
            raise Malformed(400, "no Host header")
        host = b""
    host = host.strip(b" \t")
    if not _is_host(host):
        raise Malformed(400, "the Host header is malformed")
    if target[:1] != b"/":
        whole = _URL.fullmatch(target)
        if whole is None:
            raise Malformed(400, "the request target has to begin with a slash")
        # RFC 9112 3.2.2: the target's authority is what counts, whatever Host says.
        host, target = whole[1], whole[2] if whole[2][:1] == b"/" else b"/" + whole[2]
        if host[:1] in (b"", b":") or not _is_host(host):
            raise Malformed(400, "the request target's host is malformed")
    head.host, head.target = host.decode(), target.decode()
    head.path = head.target.partition("?")[0]


def _is_host(value: bytes) -> bool:
    """RFC 3986 3.2.2: a name, which may be empty, or an address in brackets; a port."""
    match = _HOST.fullmatch(value)
    if match is None or match[1] is None:
        return match is not None
    try:
        ipaddress.IPv6Address(match[1].decode())
    except ValueError:
        return False
    return True


def _read_connection(head: RequestHead) -> None:
    value = head.ours.get(b"connection")
    if value is None:
        return
    named = fields.tokens(value)
    if b"close" in named:
        head.keep_alive = False
    head.upgrade = head.version == 1 and b"upgrade" in named and b"upgrade" in head.ours
    extra = {name for name in named if name not in (b"close", b"keep-alive", b"upgrade")}
    if extra:
        head.kept = [line for line in head.kept if line.partition(b":")[0].lower() not in extra]
        if b"content-type" in extra:
            head.content_type = ""  # a worker is not told it either


def _read_framing(head: RequestHead) -> None:
    """RFC 9112 6: one way to tell where the body ends, or none."""
    ours = head.ours
    length, coding = ours.pop(b"content-length", None), ours.get(b"transfer-encoding")
    if coding is not None:
        if length is not None:
            raise Malformed(400, "both Content-Length and Transfer-Encoding")
        if head.version == 0:
            raise Malformed(400, "Transfer-Encoding in HTTP/1.0")
        if coding.strip(b" \t").lower() != b"chunked":
            raise Malformed(400, "a transfer coding other than chunked")
        head.length = None
    elif length is not None:
        size = fields.length(length)
        if size is None:
            raise Malformed(400, "Content-Length is not a number")
        head.length = size


class Heads(heads.Heads[RequestHead]):
    """Of the requests of one client; `read` raises Malformed."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(parse)


#: A line end that is not CRLF, or a byte that no head has: no need to wait for the rest.
_BROKEN = re.compile(rb"(?<!\r)\n|\r[^\n]|\x00")


def check_beginning(data: bytearray, start: int) -> None:
    """``data``: the beginning of a head that has not ended yet, of which everything before ``start`` was checked
    already. Raises Malformed if it can become none."""
    if len(data) > MAX_HEAD:
        raise Malformed(431, f"a head of more than {MAX_HEAD} bytes")
    if _BROKEN.search(data, max(0, start - 1)):
        raise Malformed(400, "a line end that is not CRLF, or a NUL")
