"""Keeps everybody without the worker's key away from all of its routes, and tells who has it what the engine decided.

vLLM's own check leaves out every path but ``/v1 /v2 /inference /cohere``: without this, any user of the machine could
unload adapters, generate by ``/invocations`` or read ``/metrics``. An ASGI middleware, imported by the engine's own
process (``--middleware``), so it brings nothing along; the simulated worker asks `admits` itself.
"""

from __future__ import annotations

import hmac
import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from worker.spec import SEATS

#: What vLLM is told to import.
MIDDLEWARE = "worker.engines.key_guard.KeyGuard"

#: Where the key is: everybody on the machine could read an argument.
KEY = "VLLM_API_KEY"

_Message = MutableMapping[str, Any]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, Callable[[], Awaitable[_Message]], _Send], Awaitable[None]]

#: The answer to everybody else, in OpenAI's shape.
REFUSAL = json.dumps({
    "error": {
        "message": "missing or wrong key: a worker answers its own cluster only",
        "type": "AuthenticationError", "param": None, "code": 401,
    }
}).encode()  # fmt: skip


def admits(authorization: bytes, key: bytes) -> bool:
    """Whether a field ``Authorization`` with this value carries ``key``; takes the same time for every wrong one of a
    length."""
    scheme, _, token = authorization.partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(token, key)


class KeyGuard:
    """Raises ValueError where there is no key: a worker that everybody may use does not start. ``seats``: how many
    requests are computed at a time; None: what vLLM's own configuration says."""

    def __init__(self, app: _App, seats: int | None = None) -> None:
        self._app = app
        self._seats = seats
        self._key = os.environ.get(KEY, "").encode()
        if not self._key:
            raise ValueError(f"{KEY} is not set")

    def __call__(
        self, scope: _Message, receive: Callable[[], Awaitable[_Message]], send: _Send
    ) -> Awaitable[None]:
        if scope["type"] == "lifespan" or admits(_authorization(scope), self._key):
            if scope.get("path") == SEATS and scope["type"] == "http":
                seats = self._seats if self._seats is not None else _seats(scope)
                return _answer(send, "http.response", 200, json.dumps({"seats": seats}).encode())
            return self._app(scope, receive, send)  # not awaited: one frame less for each step of an answer
        return _refuse(scope, send)


def _authorization(scope: _Message) -> bytes:
    """The first one, as vLLM takes it; empty where there is none."""
    for name, value in scope.get("headers", ()):
        if name == b"authorization":
            return bytes(value)
    return b""


async def _refuse(scope: _Message, send: _Send) -> None:
    """Raises RuntimeError for a kind of connection of which it is not known how to refuse it: the server ends it."""
    match scope["type"]:
        case "http":
            answer = "http.response"
        case "websocket" if "websocket.http.response" in scope.get("extensions", {}):
            answer = "websocket.http.response"
        case "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "missing or wrong key"})
            return
        case other:
            raise RuntimeError(f"no {other!r} without a key")
    await _answer(send, answer, 401, REFUSAL, (b"www-authenticate", b"Bearer"))


async def _answer(send: _Send, answer: str, status: int, body: bytes, *more: tuple[bytes, bytes]) -> None:
    fields = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *more]
    await send({"type": f"{answer}.start", "status": status, "headers": fields})
    await send({"type": f"{answer}.body", "body": body})


def _seats(scope: _Message) -> int | None:
    """vLLM keeps its configuration with the application (`app.state.vllm_config`); None where another version does
    not."""
    try:
        return int(scope["app"].state.vllm_config.scheduler_config.max_num_seqs)
    except (KeyError, AttributeError, TypeError, ValueError):
        return None
