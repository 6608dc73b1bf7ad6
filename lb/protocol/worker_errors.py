"""What a worker's answer says of the worker itself, rather than of the request. Pure.

An engine that has died leaves its API server behind for some seconds, which goes on to answer. vLLM 0.32 spells it in
one way (`vllm/v1/engine/exceptions.py`): in the body of a 500, and as an event of a stream that had begun with 200. Its
`/v1/messages` wraps what it cannot read into an `event: error` of its own.
"""

from __future__ import annotations

import json
from typing import Any

from lb.protocol.failures import Failure

_DEAD = "EngineCore encountered an issue"
_NAME = "EngineDeadError"
_TRACES = (_DEAD.encode(), _NAME.encode())

#: How a stream opens that is over before it has begun: vLLM's own way, and that of the Messages and Responses APIs.
_OPENINGS = (b'data: {"error"', b"event: error")

_ENDS = (b"}", b"]")

#: Of the Messages API: the client's fault.
CLIENTS = frozenset({
    "invalid_request_error", "authentication_error", "permission_error", "not_found_error", "request_too_large",
    "BadRequestError", "NotFoundError", "UnprocessableEntityError",
})  # fmt: skip


def is_engine_death(error: object) -> bool:
    """``error``: the value of that key. The words have to be the message itself: in a message that quotes a request
    they are the client's."""
    if not isinstance(error, dict):
        return False
    message = error.get("message")
    return error.get("type") == _NAME or (isinstance(message, str) and message.startswith((_DEAD, _NAME)))


def says_engine_died(answer: bytes) -> bool:
    """Whether the body of a 500 says so."""
    if not any(trace in answer for trace in _TRACES):
        return False
    return is_engine_death(_error(answer))


def opening_failure(data: bytes) -> Failure | None:
    """What is wrong with a stream whose first bytes these are, if it is over before it has begun and that is not the
    client's fault."""
    if not data.startswith(_OPENINGS):
        return None
    error = _error(data.partition(b"data:")[2].partition(b"\n")[0])
    if is_engine_death(error):
        return Failure.ENGINE_DIED
    if not isinstance(error, dict):
        return Failure.BROKEN
    code = error.get("code")
    mine = error.get("type") in CLIENTS or (isinstance(code, int) and 400 <= code < 500 and code not in (408, 429))
    return None if mine else Failure.BROKEN


def is_no_answer(media: bytes, body: bytes) -> bool:
    """Whether the body of a 200 cannot be what was asked for: a page for people, nothing at all, or JSON that is none.
    ``media``: its media type in small letters, empty where none was told."""
    if media == b"text/html" or not (media or body):
        return True
    if media != b"application/json" or body[-64:].rstrip().endswith(_ENDS):
        return False  # cut off, it hardly ever ends like that; to parse each answer would hold up the others
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return True
    return False


def _error(data: bytes) -> Any:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return found.get("error") if isinstance(found, dict) else None
