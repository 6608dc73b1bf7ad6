"""What the balancer needs to know of a request's body, read with as little work as will do. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Facts:
    """``previous``: the Responses API's ``previous_response_id``. All None for a body that is not a JSON object:
    such a body goes to the worker as it is."""

    model: str | None = None
    stream: bool = False
    previous: str | None = None


NOTHING = Facts()

_MODEL_FIELD = re.compile(rb'name="?model"?\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{1,256})\r\n')

# In valid JSON a quote that is not escaped begins or ends a string, and between the end of one string and the beginning
# of the next there is nothing but punctuation. So `"model"` followed by a colon is a key, at whatever depth. It is one
# of the outermost object if nothing stands before it but the opening brace, or if from there to the closing brace no
# object or array is left open.
_SCALAR = rb'(?:"[^"\\]*"|[-+.\w]+)'
_INSIDE = rb'[^{}\[\]"\\]*(?:"[^"\\]*"[^{}\[\]"\\]*)*'
_FLAT = rb'(?:' + _SCALAR + rb'|\{' + _INSIDE + rb'\}|\[' + _INSIDE + rb'\])'
_AT_START = re.compile(rb'\s*\{\s*"model"\s*:\s*"([^"\\\x00-\x1f]+)"\s*[,}]')
_AT_END = re.compile(
    rb'"model"\s*:\s*"([^"\\\x00-\x1f]+)"\s*(?:,\s*"[^"\\]*"\s*:\s*' + _FLAT + rb'\s*)*\}\s*\Z'
)
_STREAM = re.compile(rb'"stream"\s*:\s*(true\b)?')


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


def facts(body: bytes, content_type: str, *, whole: bool = True) -> Facts:
    """Reads a JSON body, or the form field ``model`` of a multipart one; anything else says nothing. With ``whole``
    false, ``body`` is the beginning of a longer one, and only what is certain already is told."""
    if not body:
        return NOTHING
    if content_type and "json" not in content_type.lower():
        match = _MODEL_FIELD.search(body) if "multipart" in content_type.lower() else None
        return Facts(model=match[1].decode(errors="replace")) if match else NOTHING
    if b'"model"' not in body and b'"previous_response_id"' not in body and b"\\u006" not in body:
        return NOTHING if b'"stream"' not in body or not whole else _parsed(body)
    if (quick := _quick(body, whole)) is not None:
        return quick
    return _parsed(body) if whole else NOTHING


def _quick(body: bytes, whole: bool) -> Facts | None:
    """Without parsing; None where only that will tell: names in escapes, a key twice, or deep inside."""
    if b"\\u006" in body or b'"previous_response_id"' in body or body.count(b'"model"') != 1:
        return None
    match = _AT_START.match(body)
    if match is None and whole:
        match = _AT_END.match(body, body.index(b'"model"'))
    if match is None:
        return None
    streams: list[bytes] = _STREAM.findall(body)
    if len(streams) > 1:
        return None
    try:
        return Facts(match[1].decode(), streams == [b"true"])
    except UnicodeDecodeError:
        return None


def _parsed(body: bytes) -> Facts:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError):
        return NOTHING
    if not isinstance(data, dict):
        return NOTHING
    model, previous = data.get("model"), data.get("previous_response_id")
    return Facts(
        model=model if isinstance(model, str) and model else None,
        stream=data.get("stream") is True,
        previous=previous if isinstance(previous, str) else None,
    )
