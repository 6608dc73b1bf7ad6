"""How a call ends: what is a status over HTTP, as gRPC says it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from lb.protocol.errors import ProxyError
from lb.rpc import retry_info

#: Of https://grpc.github.io/grpc/core/md_doc_statuscodes.html, by the status that says the same.
_CODES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED", 413: "INVALID_ARGUMENT", 415: "INVALID_ARGUMENT", 422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED", 431: "INVALID_ARGUMENT", 499: "CANCELLED", 500: "INTERNAL", 501: "UNIMPLEMENTED",
    502: "UNAVAILABLE", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip

#: Characters of a message: it is a header, and those of a call may not be of any size.
_MOST_SAID = 1000


@dataclass(frozen=True, slots=True)
class CallFailure:
    """``code``: the name of a `grpc.StatusCode`. ``trailers``: what is said besides."""

    code: str
    message: str
    trailers: tuple[tuple[str, str | bytes], ...] = ()


def failure(status: int, message: str, retry_after: int | None = None) -> CallFailure:
    """``retry_after``: s after which it may be tried again, which a client with a policy of retries waits
    (https://github.com/grpc/proposal/blob/master/A6-client-retries.md), and others find in the details."""
    message = message[:_MOST_SAID]
    code = _CODES.get(status) or ("INVALID_ARGUMENT" if 400 <= status < 500 else "INTERNAL")
    if retry_after is None:
        return CallFailure(code, message)
    return CallFailure(code, message, (
        ("retry-after", str(retry_after)), ("grpc-retry-pushback-ms", str(1000 * retry_after)),
        (retry_info.TRAILER, retry_info.details(code, message, retry_after)),
    ))  # fmt: skip


def refusal(error: ProxyError) -> CallFailure:
    return failure(error.status, str(error), error.retry_after)


#: A stream that did not come to its end.
BROKEN = CallFailure("UNAVAILABLE", "the answer broke off")
