"""What the balancer needs to know of a request's body. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Facts:
    """``previous``: the Responses API's ``previous_response_id``. All None for a body that is not a JSON object:
    such a body goes to the worker as it is."""

    model: str | None = None
    stream: bool = False
    previous: str | None = None


def says_model_is_missing(answer: bytes, model: str) -> bool:
    """Whether a worker's 404 is about the model, and not about the route or something else the request named."""
    try:
        error = json.loads(answer)["error"]
        return error.get("param") == "model" or f"The model `{model}` does not exist" in str(error.get("message"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def with_model(body: bytes, model: str) -> bytes:
    """The same JSON object with another ``model``."""
    return json.dumps({**json.loads(body), "model": model}).encode()


def facts(body: bytes, content_type: str) -> Facts:
    """Reads a JSON body; anything else says nothing."""
    if not body or (content_type and "json" not in content_type.lower()):
        return Facts()
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return Facts()
    if not isinstance(data, dict):
        return Facts()
    model, previous = data.get("model"), data.get("previous_response_id")
    return Facts(
        model=model if isinstance(model, str) and model else None,
        stream=data.get("stream") is True,
        previous=previous if isinstance(previous, str) else None,
    )
