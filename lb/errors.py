"""What can go wrong with a request, and the one place where it becomes an HTTP answer in OpenAI's shape."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import StrEnum
from http import HTTPStatus
from typing import Any

_KINDS = {
    400: "BadRequestError", 401: "AuthenticationError", 403: "PermissionDeniedError", 404: "NotFoundError",
    405: "MethodNotAllowedError", 408: "RequestTimeoutError", 409: "ConflictError", 413: "RequestTooLargeError",
    415: "UnsupportedMediaTypeError", 500: "InternalServerError", 502: "BadGatewayError",
    503: "ServiceUnavailableError",
}  # fmt: skip


class Source(StrEnum):
    """Whose fault it is."""

    CLIENT = "client"
    UPSTREAM = "upstream"
    INTERNAL = "internal"


class ProxyError(Exception):
    """An error that is the client's answer. ``retry_after`` in seconds."""

    def __init__(
        self, status: int, message: str, *, source: Source = Source.CLIENT, param: str | None = None,
        code: str | int | None = None, retry_after: int | None = None, headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.headers = headers or {}
        self.status, self.source, self.param, self.retry_after = status, source, param, retry_after
        self.code = status if code is None else code

    def body(self) -> dict[str, Any]:
        return error_body(self.status, str(self), self.param, self.code)


class AttemptFailed(Exception):
    """One attempt on one backend came to nothing.

    ``connected``: bytes of the request may have reached the worker. ``answered``: bytes of its answer have been
    passed on to the client, so that no other attempt can be made. ``absent``: it has not got the model that it was
    said to have, which is neither its fault nor the client's. ``slow``: it took too long. ``cause``: in one word, for
    counters."""

    def __init__(
        self, reason: str, *, connected: bool, answered: bool = False, absent: bool = False, slow: bool = False,
        cause: str = "broken",
    ) -> None:
        super().__init__(reason)
        self.connected, self.answered, self.absent, self.slow = connected, answered, absent, slow
        self.cause = cause if connected else "connect"


def phrase(status: int) -> str:
    """The reason phrase of a status."""
    return "Client Closed Request" if status == 499 else HTTPStatus(status).phrase


def error_body(status: int, message: str, param: str | None = None, code: str | int | None = None) -> dict[str, Any]:
    """OpenAI's and vLLM's error object."""
    kind = _KINDS.get(status, phrase(status).replace(" ", "") + "Error")
    return {"error": {"message": message, "type": kind, "param": param, "code": status if code is None else code}}


def sse_error(message: str) -> bytes:
    """The event that ends a broken stream; no ``[DONE]`` follows it."""
    return b"data: " + json.dumps(error_body(502, message)).encode() + b"\n\n"
