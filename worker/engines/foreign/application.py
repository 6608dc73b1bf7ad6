"""An ASGI application between the key guard and an engine's own: a worker has one model, whatever else the engine would
serve, load or unload for who asks."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from config.aio import Tasks
from worker.engines.foreign.rules import CHAT, RefusedRequest, RequestRules, Serving, adapt
from worker.engines.foreign.whole import Broken, WholeAnswer

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

#: Bytes of a request; the balancer takes as many by default.
_MOST = 64 * 1024 * 1024

#: How a stream ends that is whole. Not every engine says so.
DONE = b"data: [DONE]\n\n"

_JSON = (b"content-type", b"application/json")


class OneModel:
    """``/health`` is the engine's own; ``/v1/models`` and what generates are answered for ``serving`` alone, by
    ``rules``. There is nothing else."""

    def __init__(self, app: App, rules: RequestRules, serving: Serving) -> None:
        self._app, self._rules, self._serving = app, rules, serving
        self._created = int(time.time())

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008, "reason": "there are none"})
            return
        try:
            match scope["method"], scope["path"]:
                case "GET", "/health":
                    await self._app(scope, receive, send)
                case "GET", "/v1/models":
                    await answer(send, 200, json.dumps(self._serving.cards(self._created)).encode())
                case "POST", ("/v1/chat/completions" | "/v1/completions"):
                    await self._generate(scope, receive, send)
                case _:
                    raise RefusedRequest(404, "this worker has no such route")
        except RefusedRequest as refused:
            await answer(send, refused.status, refused.body())

    async def _generate(self, scope: Message, receive: Receive, send: Send) -> None:
        chat = scope["path"] == CHAT
        adapted = adapt(await _body(receive), chat, self._rules, self._serving)
        sent = json.dumps(adapted.body).encode()
        kept = [pair for pair in scope["headers"] if pair[0] not in (b"content-length", b"transfer-encoding")]
        scope = {**scope, "headers": [*kept, (b"content-length", b"%d" % len(sent))]}
        renamed = _Renamed(send, self._serving.answers_as, adapted.model)
        if not adapted.body["stream"]:
            await self._app(scope, _GivenBody(sent, receive).receive, renamed.send)
        elif adapted.streams:
            await self._app(scope, _GivenBody(sent, receive).receive, _FinishedStream(renamed.send).send)
        else:
            await self._collect(scope, sent, receive, renamed, chat)

    async def _collect(self, scope: Message, sent: bytes, receive: Receive, renamed: _Renamed, chat: bool) -> None:
        """Asks for a stream where the client wants none, and ends it when the client leaves."""
        collector, tasks = _Collector(renamed, chat), Tasks()
        try:
            asking = tasks.start(self._asks(scope, _GivenBody(sent, _never), collector), "the answer")
            await asyncio.wait({asking, tasks.start(_gone(receive), "its client")}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await tasks.close()

    async def _asks(self, scope: Message, request: _GivenBody, collector: _Collector) -> None:
        await self._app(scope, request.receive, collector.send)
        await collector.end()


class _GivenBody:
    """A body in place of the client's; ``after`` it whatever comes."""

    def __init__(self, body: bytes, after: Receive) -> None:
        self._body: bytes | None = body
        self._after = after

    async def receive(self) -> Message:
        if self._body is None:
            return await self._after()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def _never() -> Message:
    """Nothing more comes."""
    return await asyncio.Future[Message]()


async def _gone(receive: Receive) -> None:
    """Returns when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


class _Renamed:
    """Sends answers on, with the model called as the client called it. Only what is a field of JSON is replaced: in a
    text, quotation marks are escaped."""

    def __init__(self, send: Send, answers_as: str | None, model: str) -> None:
        self._send = send
        self.model = model
        self._old = [] if answers_as in (None, model) else _fields(str(answers_as))
        self._new = _fields(model)

    async def send(self, message: Message) -> None:
        if self._old and message["type"] == "http.response.start":
            # Names differ in length: the server frames by itself what has none.
            headers = [pair for pair in message["headers"] if pair[0].lower() != b"content-length"]
            message = {**message, "headers": headers}
        elif self._old and message.get("body"):
            message = {**message, "body": self.renamed(message["body"])}
        await self._send(message)

    def renamed(self, data: bytes) -> bytes:
        for old, new in zip(self._old, self._new, strict=True):
            data = data.replace(old, new)
        return data


def _fields(name: str) -> list[bytes]:
    value = json.dumps(name, ensure_ascii=False).encode()
    return [b'"model":' + value, b'"model": ' + value]


class _FinishedStream:
    """Ends a stream as clients expect it, and an error in it in OpenAI's shape."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._events = self._whole = self._done = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._events = message["status"] == 200
        elif self._events and message["type"] == "http.response.body":
            message = {**message, "body": self._body(message.get("body", b""), message.get("more_body", False))}
        await self._send(message)

    def _body(self, data: bytes, more: bool) -> bytes:
        if b'data: {"error": "' in data:
            before, _, words = data.partition(b'data: {"error": "')
            data = before + _error(words.rpartition(b'"}')[0].decode(errors="replace"))
            self._whole = False
        elif b'"finish_reason":"' in data or b'"finish_reason": "' in data:
            self._whole = True
        self._done = self._done or DONE in data
        return data if more or self._done or not self._whole else data + DONE


def _error(words: str) -> bytes:
    error = {"message": words[:1000], "type": "InternalServerError", "param": None, "code": 500}
    return b"data: " + json.dumps({"error": error}).encode() + b"\n\n"


class _Collector:
    """What `WholeAnswer` makes of a stream; an answer that is none is passed on."""

    def __init__(self, renamed: _Renamed, chat: bool) -> None:
        self._renamed, self._whole = renamed, WholeAnswer(chat)
        self._status, self._wrong = 0, ""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
        if self._status != 200:
            await self._renamed.send(message)
        elif message["type"] == "http.response.body":
            try:
                self._whole.feed(message.get("body", b""))
            except Broken as error:
                self._wrong = self._wrong or str(error)

    async def end(self) -> None:
        if self._status != 200:
            return
        try:
            body = {**self._whole.answer(), "model": self._renamed.model}
        except Broken as error:
            wrong = {"message": self._wrong or str(error), "type": "InternalServerError", "param": None, "code": 500}
            await answer(self._renamed.send, 500, json.dumps({"error": wrong}).encode())
            return
        await answer(self._renamed.send, 200, json.dumps(body, ensure_ascii=False).encode())


async def _body(receive: Receive) -> bytes:
    """Raises RefusedRequest for more than is taken."""
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RefusedRequest(400, "the request is not whole")
        pieces.append(message.get("body", b""))
        size += len(pieces[-1])
        if size > _MOST:
            raise RefusedRequest(413, f"a request of more than {_MOST} bytes")
        if not message.get("more_body", False):
            return b"".join(pieces)


async def answer(send: Send, status: int, body: bytes) -> None:
    """One whole answer in JSON."""
    headers = [_JSON, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
