"""Which headers go on, and what the balancer itself writes. Pure.

RFC 9110 7.6.1: hop-by-hop fields, and those that ``Connection`` names, are for this connection only.
"""

from __future__ import annotations

from collections.abc import Iterable

HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)

#: Written by us on the way to a worker, so never taken from a client. ``Authorization`` is for the balancer.
_OURS = frozenset(
    {"host", "content-length", "expect", "authorization", "x-request-id", "x-forwarded-for", "x-forwarded-proto",
     "x-forwarded-host"}
)  # fmt: skip

Pairs = list[tuple[str, str]]


def _connection_names(headers: Iterable[tuple[str, str]]) -> set[str]:
    return {
        token.strip().lower()
        for name, value in headers
        if name.lower() == "connection"
        for token in value.split(",")
    }


def end_to_end(headers: Iterable[tuple[str, str]]) -> Pairs:
    """``headers`` less the hop-by-hop ones."""
    pairs = list(headers)
    dropped = HOP_BY_HOP | _connection_names(pairs)
    return [(name, value) for name, value in pairs if name.lower() not in dropped]


def to_worker(
    headers: Iterable[tuple[str, str]], *, peer: str, scheme: str, host: str, request_id: str, api_key: str | None
) -> Pairs:
    """The head of an upstream request: the client's end-to-end fields, and ours."""
    pairs = [(name, value) for name, value in end_to_end(headers) if name.lower() not in _OURS]
    pairs += [("X-Request-Id", request_id), ("X-Forwarded-For", peer), ("X-Forwarded-Proto", scheme)]
    if host:
        pairs.append(("X-Forwarded-Host", host))
    if api_key:
        pairs.append(("Authorization", f"Bearer {api_key}"))
    return pairs


def to_client(headers: Iterable[tuple[str, str]], request_id: str) -> Pairs:
    """The head of an answer, less its length: the framing is ours."""
    dropped = {"content-length", "x-request-id"}
    pairs = [(name, value) for name, value in end_to_end(headers) if name.lower() not in dropped]
    return [*pairs, ("X-Request-Id", request_id)]
