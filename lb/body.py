"""What the balancer needs to know of a request's body, read with as little work as will do. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from lb.protocol import lax


@dataclass(slots=True)
class Facts:
    """``previous``: the Responses API's ``previous_response_id``. All None for a body that is not a JSON object:
    such a body goes to the worker as it is."""

    model: str | None = None
    stream: bool = False
    previous: str | None = None


NOTHING = Facts()

_MODEL_FIELD = re.compile(
    rb'\r\nContent-Disposition: *form-data; *name="?model"?[ \t]*\r\n'
    rb'(?:[^\r\n]{1,200}\r\n){0,4}\r\n([^\r\n]{1,256})\r\n--',
    re.IGNORECASE,
)

#: A letter or an underscore as an escape: a key may be written like that.
_ESCAPED = re.compile(rb"\\u00[4-7]")

# In valid JSON there is nothing but punctuation between the end of one string and the beginning of the next. So
# `"model"` followed by a colon, with no backslash before it, is a key, at whatever depth. It is one of the outermost
# object if nothing stands before it but the opening brace, or if from there to the closing brace no object or array is
# left open.
_INSIDE = rb'[^{}\[\]"\\]*(?:"[^"\\]*"[^{}\[\]"\\]*)*'
_FLAT = rb'(?:"[^"\\]*"|[-+.\w]+|\{' + _INSIDE + rb"\}|\[" + _INSIDE + rb"\])"
_TO_THE_END = rb'\s*(?:,\s*"[^"\\]*"\s*:\s*' + _FLAT + rb"\s*)*\}\s*\Z"
_VALUE = rb'"([^"\\\x00-\x1f]+)"'
_AT_START = re.compile(rb'\s*\{\s*"model"\s*:\s*' + _VALUE + rb"\s*[,}]")
_AT_END = re.compile(rb'(?<!\\)"model"\s*:\s*' + _VALUE + _TO_THE_END)
_STREAM_AT_END = re.compile(rb'(?<!\\)"stream"\s*:\s*(true|false|null)' + _TO_THE_END)


def says_model_is_missing(answer: bytes, model: str) -> bool:
    """Whether a worker's 404 is about the model, and not about the route or something else the request named."""
    try:
        error = json.loads(answer)["error"]
        return error.get("param") == "model" or f"The model `{model}` does not exist" in str(error.get("message"))
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def is_aborted(answer: bytes) -> bool:
    """Whether a worker gave a generation up, which it answers with 200."""
    try:
        return any(choice.get("finish_reason") == "abort" for choice in json.loads(answer)["choices"])
    except (ValueError, KeyError, TypeError, AttributeError):
        return False


def with_model(body: bytes, model: str, content_type: str) -> bytes:
    """The same JSON object, or multipart form, with another ``model``."""
    if "multipart" in content_type.lower():
        match = _MODEL_FIELD.search(body)
        return body if match is None else body[: match.start(1)] + model.encode() + body[match.end(1) :]
    return json.dumps({**json.loads(body), "model": model}).encode()


def facts(body: bytes, content_type: str, *, whole: bool = True, previous: bool = True) -> Facts:
    """Reads a JSON body, or the form field ``model`` of a multipart one; anything else says nothing. With ``whole``
    false, ``body`` is the beginning of a longer one, and only what is certain already is told; with ``previous`` false
    nobody asks for that field."""
    if not body:
        return NOTHING
    if content_type and content_type != "application/json" and "json" not in content_type.lower():
        match = _MODEL_FIELD.search(body) if "multipart" in content_type.lower() else None
        return Facts(model=match[1].decode(errors="replace")) if match else NOTHING
    quick = None if previous and b'"previous_response_id"' in body else _quick(body, whole)
    if quick is not None:
        return quick
    return _parsed(body) if whole else NOTHING


def _quick(body: bytes, whole: bool) -> Facts | None:
    """Without parsing; None where only that will tell: names in escapes, or deep inside, or a stream before them. Of a
    key that comes twice the last one counts."""
    at = body.rfind(b'"model"')
    if at < 0:
        return None
    match = _AT_END.match(body, at) if whole else None
    if match is None:
        match = _AT_START.match(body)
        if match is None or at >= match.end() or _has_escaped_letters(body):
            return None
    stream = body.rfind(b'"stream"') if whole else -1
    streamed = None
    if stream >= 0:
        streamed = _STREAM_AT_END.match(body, stream)
        if streamed is None:
            return None
    elif _has_escaped_letters(body):
        return None
    try:
        return Facts(match[1].decode(), streamed is not None and streamed[1] == b"true")
    except UnicodeDecodeError:
        return None


def _has_escaped_letters(body: bytes) -> bool:
    """A look for one byte costs next to nothing, one for several does."""
    return b"\\" in body and b"\\u00" in body and _ESCAPED.search(body) is not None


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
        stream=lax.is_true(data.get("stream")),
        previous=previous if isinstance(previous, str) else None,
    )
