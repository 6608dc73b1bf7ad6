"""The simulated worker makes an answer again, tokens first, as `config.replay` has it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from config import replay

pytestmark = pytest.mark.processes

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
PLAIN = {"prompt": "hello", "max_tokens": 40, "ignore_eos": True, "stream": True, "stop": ["zzzz"]}
TALK = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 40, "ignore_eos": True, "stream": True}
KINDS = {
    "completion": (COMPLETIONS, PLAIN),
    "chat": (CHAT, TALK),
    "two": (CHAT, {**TALK, "n": 2, "temperature": 1, "seed": 7}),
    "four": (COMPLETIONS, {**PLAIN, "prompt": ["a", "b"], "n": 2, "temperature": 1, "seed": 7}),
}


async def _made(worker: Any, path: str, body: bytes, kind: str) -> tuple[bytes, dict[int, list[int]]]:
    """The events of a stream, and the tokens told of."""
    headers = {"Content-Type": kind, replay.TELL: "1"}
    async with worker.session.post(worker.url + path, data=body, headers=headers) as answer:
        assert (answer.status, answer.headers[replay.TELL]) == (200, "1")
        events, told = replay.take_comments(await answer.read())
    made: dict[int, list[int]] = {}
    for choice, ids in told:
        made.setdefault(choice, []).extend(map(int, ids.split(b",")))
    return events, made


def _said(events: bytes) -> dict[int, tuple[str, Any]]:
    """Of each choice, all text and how it ended."""
    said: dict[int, tuple[str, Any]] = {}
    for line in events.decode().split("\n\n"):
        if line and line != "data: [DONE]":
            (choice,) = json.loads(line.removeprefix("data: "))["choices"]
            text, _ = said.get(choice["index"], ("", None))
            new = choice["text"] if "text" in choice else choice["delta"]["content"]
            said[choice["index"]] = text + new, choice["finish_reason"]
    return said


@pytest.mark.parametrize("kind", KINDS)
async def test_made_again_it_says_the_same(sim: Callable[..., Any], kind: str) -> None:
    worker = await sim()
    path, body = KINDS[kind]
    sent = json.dumps(body).encode()
    events, tokens = await _made(worker, path, sent, "application/json")
    assert all(len(ids) == 40 for ids in tokens.values())
    for cut in (0, 1, 17, 40):
        first = [ids[: cut + choice] for choice, ids in sorted(tokens.items())]
        again, others = await _made(worker, path, replay.body(first, sent), replay.CONTENT_TYPE)
        assert (_said(again), others) == (_said(events), tokens)


async def test_other_tokens_lead_elsewhere(sim: Callable[..., Any]) -> None:
    worker = await sim()
    sent = json.dumps(PLAIN).encode()
    _, tokens = await _made(worker, COMPLETIONS, sent, "application/json")
    _, others = await _made(worker, COMPLETIONS, replay.body([[65, 66]], sent), replay.CONTENT_TYPE)
    assert others[0][:2] == [65, 66] and others[0][2:] != tokens[0][2:]


async def test_nobody_is_told_unasked_or_of_a_whole_answer(sim: Callable[..., Any]) -> None:
    worker = await sim()
    for path, body, headers in (
        (COMPLETIONS, PLAIN, {}), (CHAT, TALK, {replay.TELL: "0"}),
        (CHAT, {**TALK, "stream": False}, {replay.TELL: "1"})
    ):  # fmt: skip
        async with worker.session.post(worker.url + path, json=body, headers=headers) as answer:
            assert answer.status == 200 and replay.TELL not in answer.headers
            assert b": tokens" not in await answer.read()


@pytest.mark.parametrize("tokens", ["[[1],[2]]", "[[99999]]", "[1]", "[[-1]]", "nonsense", json.dumps([[1] * 5000])])
async def test_what_cannot_be_made_is_refused(sim: Callable[..., Any], tokens: str) -> None:
    worker = await sim()
    sent = tokens.encode() + b"\n" + json.dumps(PLAIN).encode()
    headers = {"Content-Type": replay.CONTENT_TYPE}
    async with worker.session.post(worker.url + COMPLETIONS, data=sent, headers=headers) as answer:
        assert answer.status == 400 and (await answer.json())["error"]["type"] == "BadRequestError"
