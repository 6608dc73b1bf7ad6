"""What a client can see of an answer, apart from ids and times, and whether it is what it has to be. Pure.

A stream is folded into one `Transcript`: chunk boundaries may differ from run to run, what the chunks say may not.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

_OWN = ("id", "created")
_CONSTANT = ("id", "created", "model", "object")
_BAD_ENDS = ("abort", "error")


class Kind(StrEnum):
    OK = "ok"
    #: Said to have failed: an error, a broken connection, silence.
    FAILED = "failed"
    #: Said to be right and is not.
    WRONG = "wrong"


class Failed(Exception):
    """The answer says, or shows, that it is none."""


class Wrong(Exception):
    """The answer is not what it has to be."""


@dataclass
class Choice:
    """One choice of a stream, put together."""

    text: str = ""
    roles: list[str] = field(default_factory=list)
    finish: list[str] = field(default_factory=list)
    stop_reason: Any = None
    token_ids: list[int] = field(default_factory=list)
    prompt_token_ids: Any = None
    logprobs: dict[str, list[Any]] = field(default_factory=dict)
    #: What a chat says beside its text, and the tools that it calls.
    beside: dict[str, str] = field(default_factory=dict)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)


@dataclass
class Transcript:
    """One whole answer without its id and its time. ``keys``: which fields it had anywhere, and which of them with a
    value: what was asked of a worker for the balancer's own use may not show."""

    model: str = ""
    object: str = ""
    choices: dict[int, Choice] = field(default_factory=dict)
    usage: Any = None
    prompt_token_ids: Any = None
    #: The event without choices, which has the usage, was there.
    ended: bool = False
    keys: set[str] = field(default_factory=set)


def read_stream(body: bytes, *, chat: bool) -> Transcript:
    """Folds an event stream. Raises `Failed` for an error in it, `Wrong` for what no right stream does."""
    try:
        events = _events(body.decode())
    except UnicodeDecodeError:
        raise Wrong("not UTF-8") from None
    made, head = Transcript(), None
    for position, data in enumerate(events):
        if data == "[DONE]":
            if position != len(events) - 1:
                raise Wrong(f"something after [DONE]: {events[position + 1][:80]}")
            break
        chunk = _object(data)
        if "error" in chunk:
            behind = ", and [DONE] after it" if "[DONE]" in events[position:] else ""
            raise Failed(f"error event: {_message(chunk)}{behind}")
        own = {name: chunk.get(name) for name in _CONSTANT}
        if head is not None and own != head:
            changed = next(name for name in _CONSTANT if own[name] != head[name])
            raise Wrong(f"{changed} changed from {head[changed]!r} to {own[changed]!r}")
        head = own
        _fold(made, chunk, chat)
    if head is None:
        raise Wrong("a stream without a chunk")
    made.model, made.object = str(head["model"]), str(head["object"])
    if not str(head["id"]).startswith("chatcmpl-" if chat else "cmpl-"):
        raise Wrong(f"the id {head['id']!r} is of another kind of answer")
    _check_ends(made, chat)
    if events[-1] != "[DONE]":
        raise Wrong("no [DONE] at the end")
    return made


def read_plain(body: bytes) -> dict[str, Any]:
    """The body without id and time. Raises `Failed` for an answer that says it was aborted, `Wrong` for no answer."""
    answer = _object(body.decode(errors="replace"))
    for name in _OWN:
        if not answer.pop(name, None):
            raise Wrong(f"no {name}")
    for choice in answer.get("choices") or []:
        if choice.get("finish_reason") in _BAD_ENDS:
            raise Failed(f"finish_reason {choice['finish_reason']}")
    return answer


def difference(seen: Any, right: Any, tolerance: float = 0.0, where: str = "") -> str:
    """The first thing in which ``seen`` is not as it should be, in words; empty if there is none. With a ``tolerance``
    log probabilities may differ by so much, and which alternatives are listed is not compared: on real hardware both
    depend on what else is computed in the same step."""
    if where.endswith(".reasoning_tokens") and tolerance:
        return ""  # vLLM counts them as its parser sees them, which follows from how tokens come together
    if isinstance(right, Transcript | Choice):
        seen, right = vars(seen), vars(right)
    if tolerance and where.endswith("top_logprobs"):
        return ""
    if isinstance(right, dict) and isinstance(seen, dict):
        if seen.keys() != right.keys():
            return f"{where}: fields {sorted(map(str, seen.keys() ^ right.keys()))} are there or missing"
        pairs: Sequence[Any] = [(seen[key], right[key], f"{where}.{key}") for key in right]
        return next((found for a, b, at in pairs if (found := difference(a, b, tolerance, at))), "")
    if isinstance(right, list) and isinstance(seen, list):
        if len(seen) == len(right):
            pairs = [(a, b, where) for a, b in zip(seen, right, strict=True)]
            return next((found for a, b, at in pairs if (found := difference(a, b, tolerance, at))), "")
        return f"{where}: {len(seen)} entries, should be {len(right)}"
    if tolerance and "logprob" in where and isinstance(seen, float) and isinstance(right, float):
        return "" if abs(seen - right) <= tolerance else f"{where}: {seen}, should be {right}"
    if seen == right and type(seen) is type(right):
        return ""
    if isinstance(seen, str) and isinstance(right, str):
        return f"{where}: {_first_difference(seen, right)}"
    if isinstance(seen, set) and isinstance(right, set):
        return f"{where}: {sorted(seen - right)} too many, {sorted(right - seen)} missing"
    return f"{where}: {seen!r}, should be {right!r}"[:200]


def _first_difference(seen: str, right: str) -> str:
    at = next((i for i, (a, b) in enumerate(zip(seen, right, strict=False)) if a != b), min(len(seen), len(right)))
    return (
        f"differs from character {at} of {len(right)} on: {seen[max(0, at - 12) : at + 12]!r}, should be "
        f"{right[max(0, at - 12) : at + 12]!r}"
    )


def _events(text: str) -> list[str]:
    """The data of all events; comments are no events."""
    if not text.endswith("\n\n"):
        raise Wrong("the last event is not whole")
    found = []
    for event in text[:-2].split("\n\n"):
        lines = [line for line in event.split("\n") if not line.startswith(":")]
        if not lines:
            continue
        if len(lines) != 1 or not lines[0].startswith("data: "):
            raise Wrong(f"no event of this API: {event[:80]!r}")
        found.append(lines[0].removeprefix("data: "))
    if not found:
        raise Wrong("a stream without an event")
    return found


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        raise Wrong(f"no JSON: {text[:80]!r}") from None
    if not isinstance(value, dict):
        raise Wrong(f"no JSON object: {text[:80]!r}")
    return value


def _message(chunk: dict[str, Any]) -> str:
    error = chunk["error"]
    return str(error.get("message") if isinstance(error, dict) else error)[:120]


def _fold(made: Transcript, chunk: dict[str, Any], chat: bool) -> None:
    usage, choices = chunk.get("usage"), chunk.get("choices")
    if not isinstance(choices, list):
        raise Wrong("a chunk without choices")
    _note_keys(made.keys, chunk, "" if choices else "last")
    if made.ended:
        raise Wrong("something after the last event")
    made.ended = not choices
    if usage is not None:
        if made.usage is not None and usage["completion_tokens"] < made.usage["completion_tokens"]:
            raise Wrong(f"usage goes back from {made.usage} to {usage}")
        made.usage = usage
    if chunk.get("prompt_token_ids") is not None:
        made.prompt_token_ids = _once(made.prompt_token_ids, chunk["prompt_token_ids"], "prompt_token_ids")
    for choice in choices:
        _fold_choice(made.choices.setdefault(choice["index"], Choice()), choice, chat)


def _fold_choice(into: Choice, choice: dict[str, Any], chat: bool) -> None:
    if into.finish:
        raise Wrong("a choice goes on after its finish")
    if chat:
        delta = choice["delta"]
        if delta.get("role"):
            if into.text or into.token_ids or into.roles:
                raise Wrong("a second role chunk" if into.roles else "the role comes after text")
            into.roles.append(delta["role"])
        into.text += delta.get("content") or ""
        for name, value in delta.items():
            if name not in ("role", "content") and isinstance(value, str):
                into.beside[name] = into.beside.get(name, "") + value
        for call in delta.get("tool_calls") or ():
            _fold_call(into.calls, call)
    else:
        into.text += choice["text"]
    into.token_ids += choice.get("token_ids") or []
    if choice.get("prompt_token_ids") is not None:
        into.prompt_token_ids = _once(into.prompt_token_ids, choice["prompt_token_ids"], "prompt_token_ids")
    for name, values in (choice.get("logprobs") or {}).items():
        if isinstance(values, list):
            into.logprobs.setdefault(name, []).extend(values)
    if choice.get("finish_reason"):
        if choice["finish_reason"] in _BAD_ENDS:
            raise Failed(f"finish_reason {choice['finish_reason']}")
        into.finish.append(choice["finish_reason"])
        into.stop_reason = choice.get("stop_reason")


def _fold_call(calls: dict[int, dict[str, Any]], call: dict[str, Any]) -> None:
    function, begun = call.get("function") or {}, call["index"] in calls
    if begun and (call.get("id") or function.get("name")):
        raise Wrong(f"call {call['index']} begins twice")
    if not begun and not (call.get("id") and function.get("name")):
        raise Wrong(f"call {call['index']} has no beginning")
    made = calls.setdefault(call["index"], {"name": function.get("name"), "arguments": ""})
    made["arguments"] += function.get("arguments") or ""


def _once(before: Any, value: Any, name: str) -> Any:
    if before is not None:
        raise Wrong(f"{name} twice")
    return value


def _check_ends(made: Transcript, chat: bool) -> None:
    if not made.choices:
        raise Wrong("no choice at all")
    for choice in made.choices.values():
        if len(choice.finish) != 1:
            raise Wrong("no finish")
        if chat and len(choice.roles) != 1:
            raise Wrong("no role chunk")


def _note_keys(keys: set[str], value: Any, where: str) -> None:
    """Every field by its path; with ``=`` behind it where it had a value. What lies in log probabilities and usage is
    compared by itself."""
    if isinstance(value, dict):
        for name, inner in value.items():
            path = f"{where}.{name}" if where else name
            keys.add(path)
            if inner not in (None, "", []):
                keys.add(f"{path}=")
            if name not in ("logprobs", "usage"):
                _note_keys(keys, inner, path)
    elif isinstance(value, list):
        for inner in value:
            _note_keys(keys, inner, where)
