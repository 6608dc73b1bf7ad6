"""The balancer's own errors in the shape of the API that was asked: OpenAI's, its Responses API's, Anthropic's. Pure.

A client library shows nothing of an error in another API's shape: `anthropic` reads ``error.message`` of an object with
``type: error``, in a stream of an event of that name only.
"""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import Any

_KINDS = {
    400: "BadRequestError", 401: "AuthenticationError", 403: "PermissionDeniedError", 404: "NotFoundError",
    405: "MethodNotAllowedError", 408: "RequestTimeoutError", 409: "ConflictError", 413: "RequestTooLargeError",
    415: "UnsupportedMediaTypeError", 500: "InternalServerError", 502: "BadGatewayError",
    503: "ServiceUnavailableError",
}  # fmt: skip

#: https://docs.anthropic.com/en/api/errors
_ANTHROPIC = {
    401: "authentication_error", 403: "permission_error", 404: "not_found_error", 408: "timeout_error",
    413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip

#: Both the code and the type of OpenAI's error for who has nothing left.
QUOTA = "insufficient_quota"

_NUMBER = re.compile(rb'"sequence_number":\s*([0-9]{1,12})')


def phrase(status: int) -> str:
    """The reason phrase of a status."""
    return "Client Closed Request" if status == 499 else HTTPStatus(status).phrase


def body(
    path: str, status: int, message: str, param: str | None = None, code: str | int | None = None
) -> dict[str, Any]:
    """The object that an error is told in to whoever asked for ``path``."""
    if _is_anthropic(path):
        kind = _ANTHROPIC.get(status) or ("invalid_request_error" if status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}
    kind = _KINDS.get(status, phrase(status).replace(" ", "") + "Error") if code != QUOTA else QUOTA
    return {"error": {"message": message, "type": kind, "param": param, "code": status if code is None else code}}


def event(path: str, message: str, latest: bytes = b"", status: int = 502) -> bytes:
    """The event that ends a broken stream of ``path``; no ``[DONE]`` follows it. ``latest``: the last that has come of
    it, which tells the number of a Responses API's next event. ``status``: of the error, had it come before the
    stream."""
    made = body(path, status, message)
    if _is_anthropic(path):
        return b"event: error\ndata: " + json.dumps(made).encode() + b"\n\n"
    if path.startswith("/v1/responses"):
        # Both what `openai` raises (``error``) and the event that the API has for it.
        numbers = _NUMBER.findall(latest)
        made |= {"type": "error", "code": str(status), "message": message, "param": None}
        made["sequence_number"] = int(numbers[-1]) + 1 if numbers else 0
        return b"event: error\ndata: " + json.dumps(made).encode() + b"\n\n"
    return b"data: " + json.dumps(made).encode() + b"\n\n"


def event_of(path: str, told: bytes, status: int) -> bytes:
    """The same of an error that was ``told`` as the body of an answer; one that is no JSON object is only named."""
    try:
        made = json.loads(told)
        error = made.get("error", made)
        return event(path, str(error["message"]), status=status)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return event(path, f"the worker answered {status}", status=status)


def _is_anthropic(path: str) -> bool:
    return path == "/v1/messages" or path.startswith("/v1/messages/")
