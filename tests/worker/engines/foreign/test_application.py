"""The application in front of an engine's own: one model, and streams that end as streams do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from worker.engines.foreign.application import OneModel
from worker.engines.foreign.rules import RequestRules, Serving

SERVING = Serving("some", ("m", "alias"), 2, asked_as="/models/m", answers_as="/models/m@main")
PASSES = RequestRules("some")
STREAMS = RequestRules("some", streams_only=True)


class Own:
    """The engine's application: remembers what it was asked, and answers ``pieces``; then waits, if ``stays``."""

    def __init__(self, *pieces: bytes, status: int = 200, stays: bool = False) -> None:
        self.pieces, self.status, self.stays = pieces, status, stays
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.cancelled = self.told = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b"{}"
        if scope.get("method") == "POST":
            body = (await receive())["body"]
            lengths = [value for name, value in scope["headers"] if name == b"content-length"]
            assert lengths == [b"%d" % len(body)]
        self.asked.append((scope.get("path", ""), json.loads(body)))
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": self.status, "headers": [(b"content-length", b"1")]})
        for piece in self.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        try:
            if self.stays:
                self.told = (await receive())["type"] == "http.disconnect"
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _ask(
    own: Own, path: str, body: Any = None, rules: RequestRules = PASSES, leaves: Callable[[], bool] | None = None
) -> tuple[int, bytes]:
    """``leaves`` tells when the client goes; without it, it stays."""
    data, sent = b"" if body is None else json.dumps(body).encode(), list[Any]()
    pieces = [data[:5], data[5:]]

    async def receive() -> Any:
        if pieces:
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}
        while leaves is None or not leaves():
            await asyncio.sleep(0.001)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    method = "GET" if body is None else "POST"
    scope = {"type": "http", "method": method, "path": path, "headers": [(b"content-length", b"%d" % len(data))]}
    await asyncio.wait_for(OneModel(own, rules, SERVING)(scope, receive, send), 5)
    if not sent:
        return 0, b""
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


ASKED = {"model": "alias", "messages": [{"role": "user", "content": "Hi"}]}


async def test_it_has_these_routes_and_no_others() -> None:
    own = Own(b"well")
    assert await _ask(own, "/health") == (200, b"well")
    status, body = await _ask(own, "/v1/models")
    assert status == 200 and [card["id"] for card in json.loads(body)["data"]] == ["m", "alias"]
    before = len(own.asked)
    for path in ("/reset", "/load_model", "/docs", "/v1/models/m", "/health/", "/v1/load_lora_adapter"):
        for given in (None, {}):
            assert (await _ask(own, path, given))[0] == 404
    assert (await _ask(own, "/v1/models", {}))[0] == 404
    assert len(own.asked) == before


async def test_the_model_is_called_as_the_client_calls_it() -> None:
    said = rb'"model":"/models/m@main","text":"\"model\":\"/models/m@main\""'
    own = Own(b"{" + said + b', "model": "/models/m@main"}')
    status, body = await _ask(own, "/v1/chat/completions", ASKED)
    assert own.asked == [("/v1/chat/completions", {**ASKED, "model": "/models/m", "stream": False})]
    assert status == 200
    assert body == rb'{"model":"alias","text":"\"model\":\"/models/m@main\"", "model": "alias"}'


async def test_what_is_refused_does_not_reach_the_engine() -> None:
    own = Own()
    status, body = await _ask(own, "/v1/chat/completions", {**ASKED, "model": "other"})
    assert status == 404 and "other" in json.loads(body)["error"]["message"] and own.asked == []


END = b'data: {"choices":[{"finish_reason":"stop"}]}\n\n'


@pytest.mark.parametrize(("pieces", "end"), [
    ([b'data: {"choices":[]}\n\n', END], END + b"data: [DONE]\n\n"),
    ([END, b"data: [DONE]\n\n"], END + b"data: [DONE]\n\n"),
    ([b'data: {"choices":[{"finish_reason":null}]}\n\n'], b'{"choices":[{"finish_reason":null}]}\n\n'),
])  # fmt: skip
async def test_a_stream_that_is_whole_ends_with_done_once(pieces: list[bytes], end: bytes) -> None:
    _, body = await _ask(Own(*pieces), "/v1/chat/completions", {**ASKED, "stream": True})
    assert body.endswith(end) and body.count(b"[DONE]") == end.count(b"[DONE]")


async def test_an_error_in_a_stream_is_one_that_clients_know() -> None:
    own = Own(b'data: {"choices":[]}\n\n', b'data: {"error": "it said "no""}\n\n')
    _, body = await _ask(own, "/v1/chat/completions", {**ASKED, "stream": True})
    event = json.loads(body.split(b"\n\n")[1].removeprefix(b"data: "))
    assert event["error"]["message"] == 'it said "no"' and b"[DONE]" not in body


async def test_of_a_stream_a_whole_answer_is_made() -> None:
    own = Own(b'data: {"id":"1","choices":[{"delta":{"content":"Ho"}}]}\n\n', END)
    status, body = await _ask(own, "/v1/chat/completions", ASKED, STREAMS)
    answer = json.loads(body)
    assert own.asked[0][1]["stream"] is True and status == 200
    assert (answer["model"], answer["choices"][0]["message"]["content"]) == ("alias", "Ho")


@pytest.mark.parametrize("pieces", [[b'data: {"error": "why"}\n\n'], [b'data: {"choices":[]}\n\n']])
async def test_of_one_that_fails_none_is_made(pieces: list[bytes]) -> None:
    status, body = await _ask(Own(*pieces), "/v1/chat/completions", ASKED, STREAMS)
    assert status == 500 and json.loads(body)["error"]["message"] in ("why", "its answer has no end")


async def test_an_answer_that_is_no_stream_is_passed_on() -> None:
    status, body = await _ask(Own(b'{"detail":"no"}', status=422), "/v1/chat/completions", ASKED, STREAMS)
    assert (status, body) == (422, b'{"detail":"no"}')


async def test_who_leaves_ends_what_is_made_for_nobody_else() -> None:
    own = Own(END[:-30], stays=True)
    assert await _ask(own, "/v1/chat/completions", ASKED, STREAMS, leaves=lambda: bool(own.asked)) == (0, b"")
    assert own.cancelled
    streamed = Own(END, stays=True)
    asked = {**ASKED, "stream": True}
    await _ask(streamed, "/v1/chat/completions", asked, leaves=lambda: bool(streamed.asked))
    assert streamed.told


async def test_a_request_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.engines.foreign.application._MOST", 20)
    assert (await _ask(Own(), "/v1/chat/completions", ASKED))[0] == 413


async def test_the_server_starts_the_engine_s_own_and_there_are_no_websockets() -> None:
    own, sent = Own(), list[Any]()

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError

    await OneModel(own, PASSES, SERVING)({"type": "lifespan"}, receive, send)
    assert own.asked and not sent
    await OneModel(own, PASSES, SERVING)({"type": "websocket", "path": "/"}, receive, send)
    assert [message["type"] for message in sent] == ["websocket.close"] and len(own.asked) == 1
