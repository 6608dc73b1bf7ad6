"""Answers of our own, as bytes. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from lb.protocol.error_shapes import phrase
from lb.protocol.http1.fields import SERVER
from lb.protocol.messages import Request

_SERVER = SERVER.decode()


def whole_answer(
    request: Request | None, status: int, body: bytes, headers: Mapping[str, str], kind: str, *, close: bool
) -> bytes:
    """Head and ``body``, of the media type ``kind``, for ``request`` (None: it was not understood). ``close``: the
    connection ends with it."""
    lines = [f"HTTP/1.1 {status} {phrase(status)}", _SERVER, f"Content-Type: {kind}; charset=utf-8"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if request is not None and request.grant is not None:
        lines += request.grant.lines
    lines.append(f"Content-Length: {len(body)}")
    if request is not None and request.id:
        lines.append(f"X-Request-Id: {request.id}")
    if close:
        lines.append("Connection: close")
    start = "\r\n".join(lines).encode() + (b"" if request is None else request.told) + b"\r\n\r\n"
    return start if request is not None and request.head.method == "HEAD" else start + body
