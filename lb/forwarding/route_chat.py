"""`POST /v1/chat/{route}`: a prompt in, its text as it is made out, as a chat of the route's or another model.

The request becomes a streamed chat like any other, with all that such a one has: routing, admission, continuation on
another worker. What comes of it is written anew for the client.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from config.model_names import AUTO
from lb.forwarding.collaborators import Collaborators
from lb.forwarding.exchange import Exchange
from lb.forwarding.resume import events
from lb.forwarding.routed_request import RoutedRequest
from lb.protocol import routes
from lb.protocol.errors import ProxyError
from lb.protocol.http1.chunked import LAST, frame
from lb.protocol.messages import Downstream, Request
from lb.protocol.routes import Route

_CHAT = routes.of("/v1/chat/completions")

#: What of a client's head has to do with a body that is not passed on.
_OF_BODY = (b"content-type", b"accept", b"accept-encoding")

_CLOSE = b"\r\nConnection: close"


class RouteChat(Exchange):
    def __init__(self, parts: Collaborators, client: Downstream, request: Request, route: Route) -> None:
        self._deltas = TextDeltas(client, chunked=request.head.version == 1)
        super().__init__(parts, self._deltas, request, _CHAT)
        self._outer, self._name = request, route.asks

    def start(self) -> None:
        outer, name = self._outer, self._name
        if name and name not in self._parts.pool.named and self._parts.pool.backends:
            raise ProxyError(404, f"no route is named {name!r}", param="route")
        inner = _as_chat(outer, _body(outer, name or AUTO))
        self._routed = RoutedRequest(inner, _CHAT)
        self._routed.path = outer.head.path
        try:
            super().start()
        finally:
            outer.told = inner.told

    @property
    def is_between_chunks(self) -> bool:
        return self._deltas.is_between_chunks


class TextDeltas:
    """A client's connection, as whoever answers the chat sees it. `lb.forwarding.relay` writes it a head, and then a
    stream of events without any framing, as for HTTP/1.0. ``chunked``: what the client gets has one."""

    def __init__(self, client: Downstream, *, chunked: bool) -> None:
        self._client, self._chunked = client, chunked
        self.close_after = False
        self._rest: bytes | None = None  # None: the head has not come
        self._plain = self._finished = False

    @property
    def full(self) -> bool:
        return self._client.full

    @property
    def is_between_chunks(self) -> bool:
        """Whether what the client has been sent ends with a chunk, and another one follows."""
        return self._chunked and self._rest is not None

    def write(self, data: bytes) -> None:
        if self._plain:
            self._client.write(data)
            return
        if self._rest is None:
            head, _, data = data.partition(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200 ") or b"text/event-stream" not in head:
                self._plain = self._client.close_after = True
                self._client.write(head + b"\r\n\r\n" + data)
                return
            self._rest, start = b"", self._head(head)
        else:
            start = b""
        whole, self._rest = events.split(self._rest + data)
        text = b"".join(map(self._translated, whole))
        if start or text:
            self._client.write(start + self._framed(text))

    def _head(self, head: bytes) -> bytes:
        head = head.removesuffix(_CLOSE)
        if self._chunked:
            head += b"\r\nTransfer-Encoding: chunked"
        else:
            self._client.close_after = True
        return head + (_CLOSE if self._client.closes_after_this() else b"") + b"\r\n\r\n"

    def _framed(self, text: bytes) -> bytes:
        return frame(text) if self._chunked and text else text

    def _translated(self, event: bytes) -> bytes:
        """What the client is told of it; nothing of what is no text."""
        made = events.parse(event)
        if made is None or self._finished:
            return b""
        if "error" in made:
            return events.dump(made)
        for choice in made.get("choices", ())[:1]:
            text, self._finished = choice["delta"].get("content") or "", choice.get("finish_reason") is not None
            if text or self._finished:
                return _delta(text, finished=self._finished)
        return b""

    def done(self) -> None:
        if not self._plain and self._rest is not None:
            last = b"" if self._finished else _delta("", finished=True)
            self._client.write(self._framed(last) + (LAST if self._chunked else b""))
        self._client.done()

    def closes_after_this(self) -> bool:
        return True  # what is written here has no other end

    def refuse(self, error: ProxyError) -> None:
        self._client.refuse(error)

    def close(self) -> None:
        self._client.close()

    def cut(self) -> None:
        self._client.cut()

    def become_tunnel(self) -> None:
        raise NotImplementedError("a chat is no tunnel")

    def hold_upload(self, hold: bool) -> None:
        self._client.hold_upload(hold)


def _delta(text: str, *, finished: bool) -> bytes:
    return b"data: " + json.dumps({"text_delta": text, "finished": finished}, ensure_ascii=False).encode() + b"\n\n"


def _body(request: Request, route: str) -> bytes:
    """The chat that is asked for. Raises ProxyError: 400, and 413 for what is larger than is read at once."""
    if request.upload is not None:
        raise ProxyError(413, "the body is too large", param="prompt")
    try:
        given = json.loads(request.body)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise ProxyError(400, "the body is no JSON object")
    kinds: dict[str, tuple[type, ...]] = {
        "prompt": (str,), "expert_id": (str,), "max_tokens": (int,), "temperature": (int, float)
    }  # fmt: skip
    made: dict[str, Any] = {"model": route, "stream": True}
    for name, value in given.items():
        if name not in kinds:
            raise ProxyError(400, f"unknown field {name[:100]!r}; known: {', '.join(kinds)}", param=name[:100])
        if value is None and name != "prompt":
            continue
        if not isinstance(value, kinds[name]) or isinstance(value, bool):
            raise ProxyError(400, f"{name} is not of the kind {kinds[name][-1].__name__}", param=name)
        if name == "expert_id":
            made["model"] = value
        elif name != "prompt":
            made[name] = value
    if "prompt" not in given:
        raise ProxyError(400, "a prompt is needed", param="prompt")
    return json.dumps({**made, "messages": [{"role": "user", "content": given["prompt"]}]}).encode()


def _as_chat(request: Request, body: bytes) -> Request:
    head = request.head
    kept = [line for line in head.kept if line.partition(b":")[0].lower() not in _OF_BODY]
    inner = Request(
        dataclasses.replace(
            head, target=_CHAT.path, path=_CHAT.path, version=0, length=len(body), content_type="application/json",
            kept=[*kept, b"Content-Type: application/json"], notes={Route: _CHAT},
        ), request.peer,
    )  # fmt: skip
    inner.id, inner.body, inner.tenant, inner.grant = request.id, body, request.tenant, request.grant
    return inner
