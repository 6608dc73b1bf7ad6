"""The metadata of a call as the head of a request, read as strictly as one that came over HTTP. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from lb.protocol.errors import ProxyError
from lb.protocol.http1 import fields
from lb.protocol.http1.request import Malformed, RequestHead, parse

#: What is HTTP/2's or gRPC's own, or says something of a connection or a body that is not there.
_LEFT_OUT = frozenset(
    {b"host", b"content-length", b"content-type", b"content-encoding", b"expect", b"origin", *fields.HOP_BY_HOP}
)  # fmt: skip

_TIMEOUT = b"x-request-timeout"


def head(path: str, metadata: Iterable[tuple[str, str | bytes]], remaining: float | None) -> RequestHead:
    """Of a call of the method ``path`` with ``remaining`` seconds until its deadline, which is how long its answer may
    take to begin. Raises ProxyError (400, 431)."""
    lines = [b"POST %b HTTP/1.0" % path.encode()]
    for key, value in metadata:
        name, text = key.lower().encode(), value.encode() if isinstance(value, str) else value
        if name in _LEFT_OUT or name.startswith((b"grpc-", b":")) or name.endswith(b"-bin"):
            continue
        if name == _TIMEOUT and remaining is not None:
            continue
        if b"\r" in text or b"\n" in text:
            raise ProxyError(400, "a value in the metadata has more than one line")
        lines.append(name + b": " + text)
    if remaining is not None:
        lines.append(_TIMEOUT + b": %.3f" % max(0.0, remaining))
    try:
        return parse(b"\r\n".join(lines) + b"\r\n\r\n")
    except Malformed as error:
        raise ProxyError(error.status, f"the metadata cannot be read: {error}") from None


def told(lines: bytes) -> list[tuple[str, str]]:
    """Those of the field ``lines`` of an answer (each with or without a CRLF before it) that say something to a caller:
    the id of the request, the model, how much is left of a rate."""
    found = []
    for line in lines.split(b"\r\n"):
        name, _, value = line.partition(b":")
        low = name.strip().lower()
        if low.startswith((b"x-request-id", b"x-routed-model", b"x-ratelimit-")) and value.isascii():
            found.append((low.decode(), value.decode().strip()))
    return found
