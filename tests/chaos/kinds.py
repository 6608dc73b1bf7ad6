"""Requests of the kinds that go on only by being made again whole: guided output, tools, reasoning, penalties, seeds,
log probabilities, several choices, Responses and Messages. Greedy and seeded ones have one right answer; samples have
to parse and to hold what was asked of them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from chaos.cases import Case
from chaos.oracle import Choice, Transcript

CHAT, COMPLETIONS, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"

_WORD = {"type": "string", "pattern": "^[a-z]{5,9}$"}
_SCHEMA = {
    "type": "object", "required": ["name", "kind", "words"], "additionalProperties": False,
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]{20,40}$"}, "kind": {"enum": ["sea", "sky"]},
        "words": {"type": "array", "minItems": 2, "maxItems": 4, "items": _WORD},
    },
}  # fmt: skip
_REGEX = "[0-9]{3}(-[0-9]{3}){12}"
_DIGITS = {"structured_outputs": {"regex": _REGEX}}
_CALL = r'<tool_call>\n\{"name": "look", "arguments": \{"city": "[a-z]{12,30}", "days": [0-9]{1,3}\}\}\n</tool_call>'
_TOOL = {"name": "look", "parameters": _SCHEMA}
_TOOLS = [{"type": "function", "function": _TOOL}]

_GREEDY, _SEEDED, _SAMPLE = {"temperature": 0}, {"temperature": 1, "seed": 4}, {"temperature": 1}
_USER = [{"role": "user", "content": "Tell me about the sea"}]
_USAGE = {"stream": True, "stream_options": {"include_usage": True}}
#: A model that thinks first unless it is told not to is told.
_TALK: dict[str, Any] = {
    **_USAGE, "messages": _USER, "max_tokens": 160, "chat_template_kwargs": {"enable_thinking": False},
}  # fmt: skip
_WRITE: dict[str, Any] = {**_USAGE, "prompt": "The sea", "max_tokens": 120, "ignore_eos": True}
_JSON = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": _SCHEMA}}}
#: The end of thinking, token 0 of the model of these runs, comes after a while. Not where nothing keeps it from coming
#: again: what vLLM's parser makes of a second one follows from how tokens come together.
_THINK = {**_TALK, "chat_template_kwargs": {}}
_SAY = {**_THINK, "logit_bias": {"0": 15}}
_ASK: dict[str, Any] = {"input": "Tell me about the sea", "stream": True, "max_output_tokens": 120}
_PENALTIES = {"model": "poet", "presence_penalty": 1, "frequency_penalty": 0.7}
_TELL: dict[str, Any] = {"messages": _USER, "stream": True, "max_tokens": 120}

Check = Callable[[Any], str]


def _whole(seen: Transcript) -> list[Choice]:
    """Those that ended by themselves: white space alone may take more tokens than there may be."""
    return [choice for choice in seen.choices.values() if choice.finish != ["length"]]


def _content(seen: Transcript) -> list[str]:
    return [choice.text for choice in _whole(seen)]


def _holds(text: str) -> str:
    """What is wrong with ``text`` as an object of the schema."""
    try:
        made = json.loads(text)
    except ValueError:
        return f"no JSON: {text[:80]!r}"
    fits = (
        isinstance(made, dict) and made.keys() == {"name", "kind", "words"}
        and re.fullmatch("[a-z]{20,40}", made["name"]) and made["kind"] in ("sea", "sky")
        and 2 <= len(made["words"]) <= 4 and all(re.fullmatch("[a-z]{5,9}", word) for word in made["words"])
    )  # fmt: skip
    return "" if fits else f"not as the schema has it: {text[:80]!r}"


def _is_json(seen: Transcript) -> str:
    return next(filter(None, map(_holds, _content(seen))), "")


def _calls(seen: Transcript) -> str:
    """vLLM 0.32 does not hold arguments to the schema of a tool that has to be called: that they are JSON has to do."""
    calls = [list(choice.calls.values()) for choice in _whole(seen)]
    if not all(calls):
        return "no call"
    try:
        for call in (call for some in calls for call in some):
            json.loads(call["arguments"])
    except ValueError as error:
        return f"the arguments are no JSON: {error}"
    return ""


def _fits(seen: Transcript) -> str:
    return "" if all(re.fullmatch(_REGEX, text) for text in _content(seen)) else f"not by the regex: {_content(seen)}"


def _any(seen: Any) -> str:
    return ""


_CASES: dict[str, tuple[str, dict[str, Any], Check | None]] = {
    "schema greedy": (CHAT, {**_TALK, **_JSON, **_GREEDY}, None),
    "schema seeded": (CHAT, {**_TALK, **_JSON, **_SEEDED}, None),
    "schema sample": (CHAT, {**_TALK, **_JSON, **_SAMPLE}, _is_json),
    "regex seeded": (COMPLETIONS, {**_WRITE, **_DIGITS, **_SEEDED, "ignore_eos": False}, None),
    "regex sample": (CHAT, {**_TALK, **_DIGITS, **_SAMPLE}, _fits),
    "tools required": (CHAT, {**_TALK, "tools": _TOOLS, "tool_choice": "required", **_SEEDED}, None),
    "tools required, sample": (CHAT, {**_TALK, "tools": _TOOLS, "tool_choice": "required", **_SAMPLE}, _calls),
    "tools auto": (CHAT, {**_TALK, "tools": _TOOLS, "structured_outputs": {"regex": _CALL}, **_SEEDED}, None),
    "tools auto, text": (CHAT, {**_TALK, "tools": _TOOLS, **_SEEDED}, None),
    "thinking": (CHAT, {**_THINK, **_SEEDED, "ignore_eos": True}, None),
    "thinking, then schema": (CHAT, {**_SAY, **_JSON, **_SEEDED}, None),
    "penalties": (COMPLETIONS, {**_WRITE, **_GREEDY, **_PENALTIES}, None),
    "penalties, sample": (COMPLETIONS, {**_WRITE, **_SAMPLE, **_PENALTIES}, _any),
    "seeded": (COMPLETIONS, {**_WRITE, **_SEEDED}, None),
    "logprobs": (CHAT, {**_TALK, **_SEEDED, "logprobs": True, "top_logprobs": 2}, None),
    "two": (CHAT, {**_TALK, "n": 2, **_SEEDED, "ignore_eos": True}, None),
    "two, sample": (CHAT, {**_TALK, "n": 2, **_SAMPLE, "ignore_eos": True}, _any),
    "responses": (RESPONSES, {**_ASK, **_GREEDY}, None),
    "responses, sample": (RESPONSES, {**_ASK, **_SAMPLE}, _any),
    "responses, tool": (RESPONSES, {**_ASK, **_GREEDY, "tools": [{"type": "function", **_TOOL}],
                                    "tool_choice": "required"}, None),
    "messages": (MESSAGES, {**_TELL, **_GREEDY}, None),
    "messages, sample": (MESSAGES, {**_TELL, **_SAMPLE}, _any),
    "messages, tool": (MESSAGES, {**_TELL, **_GREEDY, "tools": [{"name": "look", "input_schema": _SCHEMA}],
                                  "tool_choice": {"type": "any"}}, None),
}  # fmt: skip


def make(model: str, *, samples: bool = True, adapters: bool = True) -> list[Case]:
    """All of them. ``samples``: those too that have no one right answer; ``adapters``: those too that ask for one."""
    return [
        Case(name, path, {"model": model, **body}, check) for name, (path, body, check) in _CASES.items()
        if (samples or check is None) and (adapters or "model" not in body)
    ]  # fmt: skip
