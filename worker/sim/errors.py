"""vLLM's error shape, and one exception for every error an endpoint answers with."""

from __future__ import annotations

import json
import re
from typing import Any

ENGINE_DEAD = "EngineCore encountered an issue. See stack trace (above) for the root cause."
QUEUE_FULL = (
    "The engine is currently busy and cannot accept new requests. Please try again later or on a different instance."
)

# vLLM hides paths in messages; so do we, or a test could come to rely on them.
_PATHS = (
    re.compile(r"/(?:home|usr|opt|var|tmp|root|lib|mnt|srv)(?:/[\w.\-]+)+"),
    re.compile(r"(?:/[\w\-]+)+/[\w\-]+\.\w+"),
)


class ApiError(Exception):
    """An answer that is an error: HTTP status and the fields of vLLM's ``error`` object."""

    def __init__(
        self, message: str, status: int = 400, kind: str = "BadRequestError", param: str | None = None
    ) -> None:
        super().__init__(message)
        for pattern in _PATHS:
            message = pattern.sub("<path>", message)
        self.message = message
        self.status = status
        self.kind = kind
        self.param = param

    def body(self) -> dict[str, Any]:
        """The JSON body of the answer."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}
        return {"error": error}

    def event(self) -> str:
        """The same as a server-sent event; vLLM writes these with spaces, unlike its other JSON."""
        return f"data: {json.dumps(self.body())}\n\n"


class PlainError(ApiError):
    """An answer of the web framework below vLLM, in the framework's own shape."""

    def body(self) -> dict[str, Any]:
        """The JSON body of the answer."""
        return {"detail": self.message}


class EngineDead(ApiError):
    """The engine core is gone: every generation fails, and the server is about to exit."""

    def __init__(self) -> None:
        super().__init__(ENGINE_DEAD, 500, "InternalServerError")


def invalid(message: str, param: str, value: object = None) -> ApiError:
    """vLLM's own validation error: it appends parameter and value to the message."""
    extras = f"parameter={param}" + ("" if value is None else f", value={value}")
    return ApiError(f"{message} ({extras})", param=param)


def internal(message: str) -> ApiError:
    """An answer with status 500."""
    return ApiError(message, 500, "InternalServerError")


def queue_full() -> ApiError:
    """What ``--max-num-queued-reqs`` answers: try another instance."""
    return ApiError(QUEUE_FULL, 503, "Service Unavailable")


def unknown_model(model: object, served: list[str]) -> ApiError:
    """The 404 for a model name that is neither served nor a loaded adapter."""
    text = f"The model `{model}` does not exist. Valid aliases: {', '.join(served)}."
    return ApiError(text, 404, "NotFoundError", "model")
