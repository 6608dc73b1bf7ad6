"""The simulated worker makes an answer again, tokens first, as `config.replay` has it."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import replaying
from config import replay
from harness import WORKER_KEY

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


PARSERS = ("--tool-call-parser", "hermes", "--enable-auto-tool-choice", "--reasoning-parser", "qwen3")

LONGER = {"schema", "tools", "tool", "object", "thinking,"}


@pytest.fixture
async def parsing(sim: Callable[..., Any], tmp_path: Path) -> str:
    """The URL of one with all parsers on."""
    named = ("--served-model-name", "demo", "poet", "--max-model-len", "2048")
    worker = await sim(*PARSERS, *named, "--itl-ms", "0", VLLM_API_KEY=WORKER_KEY)
    return str(worker.url)


async def test_answers_of_all_kinds_are_made_again(parsing: str) -> None:
    for name in replaying.CASES:
        # Its tokens are shorter.
        more = {} if LONGER.isdisjoint(name.split()) else {"max_tokens": 250}
        made = await asyncio.to_thread(replaying.check, parsing, name, **more)
        _is_valid(name, replaying.gathered(made.events))


def _is_valid(name: str, said: dict[tuple[Any, ...], Any]) -> None:
    fields = {place[1:]: value for place, value in said.items()}
    content, ended = fields.get(("choices", 0, "delta", "content")), fields.get(("choices", 0, "finish_reason"))
    if name == "object":
        assert isinstance(json.loads(content), dict) and ended == "stop"
    if "schema" in name:
        assert set(json.loads(content)) == {"name", "age"} and ended == "stop"
    if "thinking" in name:
        assert fields["choices", 0, "delta", "reasoning"] and "</think>" not in str(fields)
    if name == "regex":
        assert re.fullmatch("[0-9]{3}(-[0-9]{3}){4}", content)
    if name == "choice":
        assert fields["choices", 0, "text"] in ("the sea", "the sky")
    if name in ("tools required", "tool named"):
        call = ("choices", 0, "delta", "tool_calls", 0, "function")
        assert fields[*call, "name"] == "look" and set(json.loads(fields[*call, "arguments"])) == {"name", "age"}
        assert ended == ("stop" if name == "tool named" else "tool_calls")
    if name == "tools auto, called":
        arguments = json.loads(fields["choices", 0, "delta", "tool_calls", 0, "function", "arguments"])
        assert set(arguments) == {"city", "days"} and ended == "tool_calls"


async def test_two_choices_and_two_seeds_say_different_things(parsing: str) -> None:
    path, body = replaying.CASES["two seeded"]
    made = await asyncio.to_thread(replaying.ask, parsing, path, body)
    other = await asyncio.to_thread(replaying.ask, parsing, path, {**body, "seed": 5})
    lines = [*made.first, *other.first]
    assert len({tuple(line[:10]) for line in lines}) == 4


async def test_from_the_middle_of_a_prompt_a_seeded_sample_is_another(parsing: str) -> None:
    """As with vLLM, whose generator begins anew: so it shows where an answer is not gone on with exactly."""
    for more in ({"seed": 4}, {"presence_penalty": 1.0}):
        body = {**PLAIN, "model": "demo", "temperature": 1, **more}
        made = await asyncio.to_thread(replaying.ask, parsing, COMPLETIONS, body)
        prompt = [256, *b"hello", *made.first[0][:10]]
        rest = await asyncio.to_thread(replaying.ask, parsing, COMPLETIONS, {**body, "prompt": prompt})
        assert rest.first[0][:20] != made.first[0][10:30]


async def test_a_whole_answer_has_its_parts_too(parsing: str) -> None:
    for name in ("tools required", "tools auto, called", "thinking, then schema"):
        path, body = replaying.CASES[name]
        asked = {**body, "stream": False, "max_tokens": 250}
        whole = json.loads((await asyncio.to_thread(replaying.ask, parsing, path, asked)).events)["choices"][0]
        made = await asyncio.to_thread(replaying.ask, parsing, path, {**asked, "stream": True})
        told = {place[1:]: value for place, value in replaying.gathered(made.events).items()}
        message = whole["message"]
        assert whole["finish_reason"] == told["choices", 0, "finish_reason"]
        if "tools" in name:
            function = message["tool_calls"][0]["function"]
            assert function["arguments"] == told["choices", 0, "delta", "tool_calls", 0, "function", "arguments"]
        else:
            parts = (message["content"], message["reasoning"])
            assert parts == tuple(told["choices", 0, "delta", name] for name in ("content", "reasoning"))


@pytest.mark.parametrize(
    "wrong",
    [{"structured_outputs": {"regex": "(a"}}, {"structured_outputs": {"regex": 5}}, {"structured_outputs": {}},
     {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nope"}}}},
     {"tools": replaying.TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}}],
)  # fmt: skip
async def test_what_nothing_can_be_is_refused(parsing: str, wrong: dict[str, Any]) -> None:
    made = await asyncio.to_thread(replaying.ask, parsing, CHAT, {**TALK, **wrong})
    assert made.status == 400 and '"BadRequestError"' in made.events


async def test_tokens_that_the_grammar_refuses_end_in_an_error(parsing: str) -> None:
    path, body = replaying.CASES["regex"]
    made = await asyncio.to_thread(replaying.ask, parsing, path, body, [[65, 66]])
    assert '"code": 500' in made.events
