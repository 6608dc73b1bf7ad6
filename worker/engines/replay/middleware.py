"""At the door of a vLLM worker: takes apart what asks for an answer once more, and tells of tokens who asks for them.

An ASGI middleware, inside of `worker.engines.key_guard.KeyGuard`: only the worker's own cluster gets here. What this
vLLM cannot do it does not promise: the worker serves all the same, and its log says once what is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from config import replay
from worker.engines.replay import envelope, hook
from worker.engines.replay.tracker import Tracker

#: What vLLM is told to import.
MIDDLEWARE = "worker.engines.replay.middleware.Replay"

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]
_App = Callable[[_Message, _Receive, _Send], Awaitable[None]]

_TELL, _KIND = replay.TELL.encode(), replay.CONTENT_TYPE.encode()
#: Below vLLM's own logger, whose handlers write the worker's log.
_log = logging.getLogger("vllm.clusterctl")


class Replay:
    """``vocabulary``: how many tokens the model has, ``length``: of its context; 0 until it is known that the engine
    follows notes."""

    def __init__(self, app: _App) -> None:
        self._app = app
        self._looked = False
        self._vocabulary = self._length = 0

    def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> Awaitable[None]:
        if scope["type"] == "lifespan":
            return self._app(scope, receive, send)
        if not self._looked:
            self._look(scope)
        heads = dict(scope["headers"])
        asked, tell = heads.get(b"content-type") == _KIND, heads.get(_TELL) == b"1" and self._length > 0
        if scope["type"] != "http" or not (asked or tell):
            return self._app(scope, receive, send)  # not awaited: one frame less for each step of an answer
        return self._serve(scope, receive, send, asked=asked, tell=tell)

    def _look(self, scope: _Message) -> None:
        """Once: what does this vLLM have? Before it is looked no request reaches the engine."""
        self._looked = True
        try:
            state = scope["app"].state
            hook.attach(state.engine_client)
            hook.check(state.vllm_config)
            model = state.vllm_config.model_config
            self._vocabulary, self._length = int(model.get_vocab_size()), int(model.max_model_len)
        except hook.Unable as why:
            _log.info("A broken answer is not made again here: %s", why)
        except Exception as error:
            _log.warning("A broken answer is not made again here: vLLM is built otherwise (%r)", error)

    async def _serve(self, scope: _Message, receive: _Receive, send: _Send, *, asked: bool, tell: bool) -> None:
        first: envelope.Tokens = []
        if asked:
            body = await _body(receive)
            if body is None:
                return
            try:
                first, sent = self._opened(body)
            except envelope.BadEnvelope as why:
                await _refuse(send, envelope.refusal(str(why)))
                return
            scope, receive = _plain(scope, len(sent)), _again(sent, receive)
        request = Tracker(first, tell)
        token = hook.REQUEST.set(request)
        try:
            await self._app(scope, receive, _telling(send, request) if tell else send)
        finally:
            hook.REQUEST.reset(token)

    def _opened(self, body: bytes) -> tuple[envelope.Tokens, bytes]:
        if not self._length:
            raise envelope.BadEnvelope("this worker makes no answer again")
        first, sent = envelope.opened(body, self._vocabulary, self._length)
        envelope.check_choices(first, envelope.choices(sent))
        return first, sent


async def _body(receive: _Receive) -> bytes | None:
    """All of it; None where the client has gone."""
    parts = []
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


def _plain(scope: _Message, length: int) -> _Message:
    """The request as the client has sent it, with a body of so many bytes."""
    replaced = (b"content-type", b"content-length", b"transfer-encoding")
    kept = [(name, value) for name, value in scope["headers"] if name not in replaced]
    added = [(b"content-type", b"application/json"), (b"content-length", b"%d" % length)]
    return {**scope, "headers": [*kept, *added]}


def _again(body: bytes, receive: _Receive) -> _Receive:
    left: list[_Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def read() -> _Message:
        return left.pop() if left else await receive()

    return read


def _telling(send: _Send, request: Tracker) -> _Send:
    """Before an event of a stream, which may come in parts: what was made since the one before."""
    between = False

    async def tell(message: _Message) -> None:
        nonlocal between
        if message["type"] == "http.response.start":
            heads = list(message.get("headers", ()))
            kind = next((bytes(value) for name, value in heads if name.lower() == b"content-type"), b"")
            between = request.tell = kind.startswith(b"text/event-stream")
            if between:
                message = {**message, "headers": [*heads, (_TELL, b"1")]}
        elif message.get("body") and request.tell:
            body = message["body"]
            if between and (comments := request.comments()):
                message = {**message, "body": comments + body}
            between = body.endswith((b"\n\n", b"\r\n\r\n"))
        await send(message)

    return tell


async def _refuse(send: _Send, body: bytes) -> None:
    fields = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 400, "headers": fields})
    await send({"type": "http.response.body", "body": body})
