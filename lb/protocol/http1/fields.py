"""Header fields, as both requests and answers have them. Pure."""

from __future__ import annotations

import re

#: RFC 9110 5.6.2.
TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"

#: RFC 9110 5.5: visible characters, space, tab, and bytes above ASCII, which go through as they are.
_FIELD = re.compile(rb"^(" + TOKEN + rb"):[ \t]*+([\t\x20-\x7e\x80-\xff]*)\r\n", re.MULTILINE)

#: RFC 9110 7.6.1: for one connection only. ``Connection`` itself is read by whoever parses a head.
HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
        b"trailer", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip

#: The product, and no versions of what it is made of.
SERVER = b"Server: clusterctl"

_LENGTH = re.compile(rb"[0-9]{1,18}")

Pair = tuple[bytes, bytes]


def pairs(block: bytes) -> list[Pair] | None:
    """(name, value) of each line in ``block`` (the lines between start line and empty line, each with its CRLF), as
    written; a value keeps blanks at its end. None if any line is not a field line of RFC 9112 5: a bare CR or LF, a
    control character, a blank before the colon, a line folded into the next."""
    found: list[Pair] = _FIELD.findall(block)
    # A line that does not match, or only in part, leaves its LF uncounted.
    return found if len(found) == block.count(b"\n") and block.count(b"\r") == len(found) else None


def length(value: bytes) -> int | None:
    """A ``Content-Length``; None if it is not plain digits: no sign, no list, no underscore."""
    value = value.strip(b" \t")
    return int(value) if _LENGTH.fullmatch(value) else None


def tokens(value: bytes) -> list[bytes]:
    """A comma-separated list, lower case."""
    return [token for part in value.lower().split(b",") if (token := part.strip(b" \t"))]
