"""Heads of requests: written down, read, refused; and strategies for their lines."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from lb.protocol.http1.request import Malformed, RequestHead, parse

OURS = {
    "host", "content-length", "expect", "authorization", "x-request-id", "x-forwarded-for", "x-forwarded-proto",
    "x-forwarded-host", "forwarded", "connection", "keep-alive", "proxy-authenticate", "proxy-authorization",
    "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "x-api-key",
}  # fmt: skip

TOKEN = "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
NAMES = (
    st.text(TOKEN.replace("_", ""), min_size=1, max_size=12)
    .filter(lambda name: name.lower() not in OURS)
    .map(str.encode)
)
VALUES = st.lists(st.sampled_from([9, *range(0x20, 0x7F), *range(0x80, 0x100)]), max_size=30).map(bytes)
BLANKS = st.sampled_from([b"", b" ", b"\t", b"  \t "])
LINES = st.lists(st.tuples(NAMES, BLANKS, VALUES.map(lambda value: value.lstrip(b" \t"))), max_size=12)


def head(*given_lines: bytes, start: bytes = b"GET /v1/models HTTP/1.1", host: bytes | None = b"x") -> bytes:
    first = [start] if host is None else [start, b"Host: " + host]
    return b"\r\n".join([*first, *given_lines, b"", b""])


def read(*given_lines: bytes, start: bytes = b"GET /v1/models HTTP/1.1", host: bytes | None = b"x") -> RequestHead:
    return parse(head(*given_lines, start=start, host=host))


def refused(data: bytes) -> int:
    with pytest.raises(Malformed) as caught:
        parse(data)
    return caught.value.status
