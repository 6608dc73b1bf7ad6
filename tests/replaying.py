"""Answers of all kinds, made again from their tokens: the requests, and what has to be equal whoever made them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx

from config import replay
from harness import WORKER_KEY

CHAT, COMPLETIONS, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
USER = [{"role": "user", "content": "Tell me about the sea"}]
SCHEMA = {
    "type": "object", "required": ["name", "age"], "additionalProperties": False,
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
}  # fmt: skip
TOOL = {"name": "look", "parameters": SCHEMA}
TOOLS = [{"type": "function", "function": TOOL}]
CALL = r'<tool_call>\n\{"name": "look", "arguments": \{"city": "[a-z]{3,8}", "days": [0-9]{1,3}\}\}\n</tool_call>'
JSON = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}
#: Of a model that thinks first unless it is told not to: so it is told.
_PLAINLY: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": False}}
_TALK = {"model": "demo", "messages": USER, "stream": True, "max_tokens": 60, **_PLAINLY}
_SEEDED, _GREEDY = {"temperature": 1, "seed": 4}, {"temperature": 0}
_WRITE = {"model": "demo", "prompt": "The sea", "stream": True, "max_tokens": 50}
#: The end of thinking, token 0 of the model of the tests, comes after a while.
_THINK = {**_SEEDED, "logit_bias": {"0": 15}}
_ASK = {"model": "demo", "input": "Tell me about the sea", "stream": True, "max_output_tokens": 60}
_SAY = {"model": "demo", "messages": USER, "stream": True, "max_tokens": 60}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "text": (CHAT, {**_TALK, **_GREEDY}),
    "schema greedy": (CHAT, {**_TALK, **JSON, **_GREEDY}),
    "schema seeded": (CHAT, {**_TALK, **JSON, **_SEEDED}),
    "object": (CHAT, {**_TALK, "response_format": {"type": "json_object"}, **_SEEDED}),
    "regex": (CHAT, {**_TALK, "structured_outputs": {"regex": "[0-9]{3}(-[0-9]{3}){4}"}, **_SEEDED}),
    "choice": (COMPLETIONS, {**_WRITE, "structured_outputs": {"choice": ["the sea", "the sky"]}, **_SEEDED}),
    "tools required": (CHAT, {**_TALK, "tools": TOOLS, "tool_choice": "required", **_SEEDED}),
    "tool named": (CHAT, {**_TALK, "tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "look"}},
                          **_SEEDED}),
    "tools auto, text": (CHAT, {**_TALK, "tools": TOOLS, "tool_choice": "auto", **_SEEDED}),
    "tools auto, called": (CHAT, {**_TALK, "tools": TOOLS, "structured_outputs": {"regex": CALL}, **_SEEDED,
                                  "max_tokens": 120}),
    "penalties": (COMPLETIONS, {**_WRITE, **_GREEDY, "model": "poet", "presence_penalty": 1, "frequency_penalty": 0.7,
                                "repetition_penalty": 1.2, "logit_bias": {"40": 3}, "ignore_eos": True}),
    "min_p": (COMPLETIONS, {**_WRITE, "temperature": 1.2, "seed": 9, "min_p": 0.02, "top_p": 0.9, "top_k": 40,
                            "min_tokens": 40, "stop": ["zz", "the"]}),
    "logprobs of a chat": (CHAT, {**_TALK, **_SEEDED, "logprobs": True, "top_logprobs": 3}),
    "logprobs": (COMPLETIONS, {**_WRITE, **_SEEDED, "logprobs": 2, "return_token_ids": True,
                               "stream_options": {"include_usage": True, "continuous_usage_stats": True}}),
    "two seeded": (CHAT, {**_TALK, "n": 2, **_SEEDED, "ignore_eos": True}),
    "two unseeded": (CHAT, {**_TALK, "n": 2, "temperature": 1, "ignore_eos": True}),
    "four": (COMPLETIONS, {**_WRITE, "prompt": ["The sea", "A dog"], "n": 2, **_SEEDED, "ignore_eos": True}),
    "thinking": (CHAT, {**_TALK, "chat_template_kwargs": {}, **_THINK, "ignore_eos": True}),
    "thinking, then schema": (CHAT, {**_TALK, "chat_template_kwargs": {}, **_THINK, **JSON, "ignore_eos": True}),
    "messages": (MESSAGES, {**_SAY, **_GREEDY, **_PLAINLY}),
    "messages with a tool": (MESSAGES, {**_SAY, **_GREEDY, **_PLAINLY, "tool_choice": {"type": "any"},
                                        "tools": [{"name": "look", "input_schema": SCHEMA}]}),
    "messages, thought first": (MESSAGES, {**_SAY, **_GREEDY}),
    "responses": (RESPONSES, {**_ASK, **_GREEDY, **_PLAINLY}),
    "responses with a tool": (RESPONSES, {**_ASK, **_GREEDY, **_PLAINLY, "tool_choice": "required",
                                          "tools": [{"type": "function", **TOOL}]}),
    "responses, thought first": (RESPONSES, {**_ASK, **_SEEDED}),
}  # fmt: skip

#: Made anew for each answer.
_RANDOM = {"id", "created", "created_at", "item_id", "call_id", "completed_at", "signature", "encrypted_content"}
#: How many events there are is the engine's timing, and vLLM counts as thought all tokens of that in which thinking
#: ends.
_COUNTED = {"sequence_number", "reasoning_tokens"}
#: vLLM's parser leaves one out that is alone in an event, and not one that comes with other tokens: again its timing.
_END_OF_THINKING = "</think>"
_PIECES = {"content", "text", "arguments", "delta", "partial_json", "reasoning", "thinking", "reasoning_content"}


@dataclass
class Made:
    status: int
    told: bool
    events: str
    tokens: dict[int, list[int]] = field(default_factory=dict)

    @property
    def first(self) -> list[list[int]]:
        return [tokens for _, tokens in sorted(self.tokens.items())]


def ask(url: str, path: str, body: Any, tokens: list[list[int]] | None = None) -> Made:
    """As a balancer asks a worker: told of tokens and, with ``tokens``, those of each choice first."""
    sent = json.dumps(body).encode()
    kind = "application/json"
    if tokens is not None:
        kind, sent = replay.CONTENT_TYPE, replay.body(tokens, sent)
    headers = {"Authorization": f"Bearer {WORKER_KEY}", "Content-Type": kind, replay.TELL: "1"}
    answer = httpx.post(url + path, content=sent, headers=headers, timeout=60)
    events, told = replay.take_comments(answer.content)
    made = Made(answer.status_code, answer.headers.get(replay.TELL) == "1", events.decode())
    for choice, ids in told:
        made.tokens.setdefault(choice, []).extend(map(int, ids.split(b",")))
    return made


def gathered(events: str) -> dict[tuple[Any, ...], Any]:
    """What a client has in the end, by field: pieces of text put together, and of all else the last; without what is
    made anew for each answer and how it was cut into events."""
    found: dict[tuple[Any, ...], Any] = {}
    for block in events.split("\n\n"):
        data = "".join(line[6:] for line in block.split("\n") if line.startswith("data: "))
        if data == "[DONE]":
            found["done",] = True
        elif data:
            _gather(json.loads(data), (json.loads(data).get("type"),), found)
    return found


def _gather(value: Any, place: tuple[Any, ...], found: dict[tuple[Any, ...], Any]) -> None:
    if isinstance(value, dict) and "logprobs" not in place:
        for name, item in value.items():
            if name not in _RANDOM | _COUNTED:
                _gather(item, (*place, name), found)
    elif isinstance(value, dict):
        for name, item in value.items():  # lists with an entry for each token
            found.setdefault((*place, name), []).extend(item if isinstance(item, list) else [item])
    elif isinstance(value, list) and place[-1] == "token_ids":  # of one event, which has several on a busy machine
        found.setdefault(place, []).extend(value)
    elif isinstance(value, list) and all(isinstance(item, dict) for item in value):
        for position, item in enumerate(value):
            _gather(item, (*place, item.get("index", position)), found)
    elif isinstance(value, str) and place[-1] in _PIECES and "response" not in place:
        found[place] = found.get(place, "") + value.replace(_END_OF_THINKING, "")
    elif isinstance(value, str):
        found[place] = value.replace(_END_OF_THINKING, "")
    elif value is not None or place not in found:
        found[place] = value


def shapes(events: str) -> set[str]:
    """Of all events: their names, the keys of everything in them, in order, and the kinds of their values. Whether the
    last one of a choice has something of it is the model's business."""
    found = set()
    for block in filter(None, events.split("\n\n")):
        lines = block.split("\n")
        data = "".join(line[6:] for line in lines if line.startswith("data: "))
        found.add(f"{lines[:-1]} {data if data == '[DONE]' else _shape(json.loads(data))}")
    return found


def _shape(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        if value.get("finish_reason") is not None and "delta" in value:
            value = {**value, "delta": {}}
        if key in ("top_logprobs", "schema", "parameters", "input"):
            return "{}"
        return [(name, _shape(item, name)) for name, item in value.items()]
    if isinstance(value, list):
        return [_shape(value[0], key)] if value and isinstance(value[0], dict) else "[]"
    if key in ("finish_reason", "stop_reason", "stop_sequence", "status", "type", "object", "role"):
        return value if key in ("type", "object", "role") else ""
    return "" if value is None and key in ("logprob",) else type(value).__name__


def check(url: str, name: str, **more: Any) -> Made:
    """Make the answer of a case, make it again from four points, and compare all but what is made anew."""
    path, body = CASES[name]
    body = {**body, **more}
    made = ask(url, path, body)
    assert (made.status, made.told) == (200, True), made.events
    assert '"error"' not in made.events, made.events
    assert made.tokens and len(made.tokens) == body.get("n", 1) * (2 if isinstance(body.get("prompt"), list) else 1)
    for share in (0.0, 0.3, 0.7, 1.0):
        first = [tokens[: max(1, int(len(tokens) * share))] for tokens in made.first]
        again = ask(url, path, body, first)
        assert (again.status, again.told) == (200, True), again.events
        if "unseeded" in name:
            assert [tokens[: len(some)] for tokens, some in zip(again.first, first, strict=True)] == first
        else:
            assert again.tokens == made.tokens
            ours, theirs = gathered(again.events), gathered(made.events)
            differ = {place for place in ours | theirs if ours.get(place) != theirs.get(place)}
            assert not differ, {place: (ours.get(place), theirs.get(place)) for place in differ}
    return made
