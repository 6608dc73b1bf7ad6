"""Which headers go on to whom, and what the balancer itself writes. Pure.

A backend gets what an engine reads, and nothing else of the client's: no cookie, no key. What goes on, either way, goes
on byte by byte.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from config import replay
from lb.protocol.http1.fields import SERVER
from lb.protocol.http1.request import RequestHead
from lb.protocol.http1.response import ResponseHead
from lb.protocol.messages import Grant

#: Backends for which a head's beginning is noted.
_MOST_NOTES = 16

#: How the fields begin that tell of limits: where ours are told, those of a server behind us would be taken for them.
_LIMITS = b"\r\nx-ratelimit-"

#: Whoever buffers answers on the way to the client (nginx) passes an event stream on as it comes.
_UNBUFFERED = b"X-Accel-Buffering: no"

#: What backends get: what every server reads, what vLLM 0.32 reads (trace context, session, priority, format of the
#: load report), what marks the version of an API, and the opening of a WebSocket. Left out on purpose: ``Origin`` (CORS
#: is answered here), ``X-data-parallel-rank`` (who takes a request is decided here and in the engine) and
#: ``X-Amzn-SageMaker-*`` (another name for the model).
FORWARDED = frozenset(
    {
        b"accept", b"accept-charset", b"accept-encoding", b"accept-language", b"content-type", b"content-language",
        b"user-agent", b"traceparent", b"tracestate", b"x-session-id", b"x-vllm-priority",
        b"endpoint-load-metrics-format", b"openai-beta", b"anthropic-version", b"anthropic-beta",
        b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-protocol", b"sec-websocket-extensions",
    }
)  # fmt: skip

_TYPE = re.compile(rb"\r\ncontent-type:[^\r]*", re.IGNORECASE)

#: How browsers send OpenAI's key with a WebSocket: as one of its protocols.
_KEY_PROTOCOL = b"openai-insecure-api-key."


class Trusted:
    """The proxies whose ``X-Forwarded-*`` is believed. Raises ValueError for what is no address or network."""

    def __init__(self, networks: Iterable[str] = ()) -> None:
        self._networks = [ipaddress.ip_network(network, strict=False) for network in networks]

    def __contains__(self, peer: str) -> bool:
        if not self._networks:
            return False
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None) or address
        return any(mapped in network for network in self._networks)


def forwarded(head: RequestHead, peer: str, trusted: Trusted, scheme: bytes = b"http") -> bytes:
    """``X-Forwarded-For``, ``-Proto`` and ``-Host``: ours, appended to what a trusted proxy says. ``scheme``: what we
    are asked by."""
    if (known := head.notes.get(forwarded)) is not None:
        return bytes(known)
    chain, host = peer.encode(), head.host.encode()
    if peer in trusted:
        if before := head.ours.get(b"x-forwarded-for", b"").strip(b" \t"):
            chain = before + b", " + chain
        scheme = head.ours.get(b"x-forwarded-proto", scheme)
        host = head.ours.get(b"x-forwarded-host", host)
    lines = b"\r\nX-Forwarded-For: %b\r\nX-Forwarded-Proto: %b" % (chain, scheme)
    if host:
        lines += b"\r\nX-Forwarded-Host: " + host
    head.notes[forwarded] = lines
    return lines


def passed(lines: Iterable[bytes], names: frozenset[bytes]) -> list[bytes]:
    """Those of the field ``lines`` whose (lower-case) name is one of ``names``."""
    found = []
    for line in lines:
        name, _, value = line.partition(b":")
        low = name.lower()
        if low == b"sec-websocket-protocol" and low in names:
            protocols = [each.strip(b" \t") for each in value.split(b",")]
            kept = [each for each in protocols if each and not each.lower().startswith(_KEY_PROTOCOL)]
            if kept:
                found.append(name + b": " + b", ".join(kept))
        elif low in names:
            found.append(line)
    return found


def to_worker(
    head: RequestHead, host: bytes, prefix: str, forwarded: bytes, request_id: str, api_key: str | None,
    length: int | None, upgrade: bool = False, names: frozenset[bytes] | None = FORWARDED,
) -> bytes:
    """The head of an upstream request. ``length``: bytes of its body, None for a chunked one; no body and none
    announced by the client: no length either. ``host``: the backend's name and port. ``names``: the client's fields
    that go on, None for all that are not ours.

    What is the same for the next request with the same head is noted with it."""
    to = (host, prefix, api_key, upgrade)
    start = head.notes.get(to)
    if start is None:
        lines = [b"%b %b%b HTTP/1.1\r\nHost: %b" % (head.method.encode(), prefix.encode(), head.target.encode(), host)]
        lines += head.kept if names is None else passed(head.kept, names)
        if api_key:
            lines.append(b"Authorization: Bearer " + api_key.encode())
        if upgrade:
            lines.append(b"Connection: Upgrade\r\nUpgrade: websocket")
        start = b"\r\n".join(lines) + forwarded + b"\r\nX-Request-Id: "
        if len(head.notes) < _MOST_NOTES:
            head.notes[to] = start
    if length is None:
        return b"%b%b\r\nTransfer-Encoding: chunked\r\n\r\n" % (start, request_id.encode())
    if length or head.method not in ("GET", "HEAD"):
        return b"%b%b\r\nContent-Length: %d\r\n\r\n" % (start, request_id.encode(), length)
    return b"%b%b\r\n\r\n" % (start, request_id.encode())


def for_replay(start: bytes, replays: bool, tells: bool) -> bytes:
    """The head ``start`` of an upstream request whose body has tokens before it (``replays``), or that asks for tokens
    beside its events (`config.replay`)."""
    line = start.find(b"\r\n")
    asked, rest = start[:line], start[line:]
    if replays:
        rest = b"\r\nContent-Type: " + replay.CONTENT_TYPE.encode() + _TYPE.sub(b"", rest)
    return asked + (b"\r\n%b: 1" % replay.TELL.encode() if tells else b"") + rest


def to_client(
    head: ResponseHead, *, request_id: str, framing: bytes, close: bool, grant: Grant | None = None, told: bytes = b""
) -> bytes:
    """The head of an answer. ``framing``: the field line, without CRLF, that tells the client where the body ends, or
    empty. ``grant``: what it says to another origin; ``told``: more field lines, each behind a CRLF."""
    note: object = to_client if grant is None else grant
    limited = bool(told) and _LIMITS in told
    if limited:
        note = note, _LIMITS
    start = head.notes.get(note)
    if start is None:
        kept = head.kept if grant is None else grant.applied(head.kept)
        if limited:
            kept = [line for line in kept if not line.lower().startswith(_LIMITS.lstrip())]
        lines = [b"HTTP/1.1 %d %b" % (head.status, head.reason), SERVER, *kept]
        if head.unbuffered:
            lines.append(_UNBUFFERED)
        start = b"\r\n".join(lines)
        if len(head.notes) < _MOST_NOTES:
            head.notes[note] = start
    ours = b"\r\nX-Request-Id: " + request_id.encode() if request_id else b""
    if framing:
        ours += b"\r\n" + framing
    return b"%b%b%b%b\r\n\r\n" % (start, ours, told, b"\r\nConnection: close" if close else b"")
