"""Answers of several parts (reasoning, text, calls of tools) as events of each API, however cut, and what a client
makes of them. A token is a word; which comes next follows from all before it and from who makes it."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from config import replay

CHAT, COMPLETIONS, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"
PATHS = (CHAT, COMPLETIONS, MESSAGES, RESPONSES)

#: How many tokens of an answer each part has, but for the last: that has the rest.
_PARTS = {"reasoning": 5, "content": 7, "one": 6}


def tokens(salt: str, count: int, first: Sequence[int] = ()) -> list[int]:
    """So many, those in ``first`` first."""
    made, before = list[int](), zlib.crc32(salt.encode())
    for at in range(count):
        made.append(first[at] if at < len(first) else before % 1000)
        before = zlib.crc32(b",%d" % made[-1], before)
    return made


@dataclass(frozen=True)
class Group:
    """Tokens that come together: for each choice what they add to its parts, and whether it ends there."""

    choice: int
    ids: tuple[int, ...]
    added: tuple[tuple[str, str], ...]
    ends: bool


def groups(made: Sequence[Sequence[int]], path: str, sizes: Sequence[int] = (), lag: int = 0) -> list[Group]:
    """``sizes``: of the groups, in turn, 1 where there are none; ``lag``: characters that are held back until more of
    their part, or its end, is there."""
    out = []
    turns: Iterator[int] = iter(sizes)
    at, held = [0] * len(made), [""] * len(made)
    while any(begin < len(ids) for begin, ids in zip(at, made, strict=True)):
        for choice, ids in enumerate(made):
            if at[choice] >= len(ids):
                continue
            end = min(len(ids), at[choice] + max(1, next(turns, 1)))
            added: list[tuple[str, str]] = []
            for number in range(at[choice], end):
                part, last = _part(number, len(ids), path)
                text = held[choice] + f" w{ids[number]}"
                keep = 0 if last else min(lag, len(text))
                held[choice] = text[len(text) - keep :]
                added.append((part, text[: len(text) - keep]))
            out.append(Group(choice, tuple(ids[at[choice] : end]), _merged(added), end == len(ids)))
            at[choice] = end
    return out


def _part(number: int, count: int, path: str) -> tuple[str, bool]:
    """Of which part a token is, and whether it is the last one of it."""
    if path == COMPLETIONS:
        return "content", number == count - 1
    for part, size in _PARTS.items():
        if number < size:
            return part, number == size - 1 or number == count - 1
        number, count = number - size, count - size
    return "two", number == count - 1


def _merged(added: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    out: list[tuple[str, str]] = []
    for part, text in added:
        if out and out[-1][0] == part:
            out[-1] = part, out[-1][1] + text
        else:
            out.append((part, text))
    return tuple(out)


def stream(
    path: str, made: Sequence[Sequence[int]], name: str, response: str = "", **cut: Any
) -> list[tuple[bytes, bytes]]:
    """Each event, with the comments that stand before it. ``name``: of who makes it, for all ids but that of a
    ``response``, if it has one."""
    writer = {CHAT: _Chat, COMPLETIONS: _Completions, MESSAGES: _Messages, RESPONSES: _Responses}[path](name, len(made))
    if response and isinstance(writer, _Responses):
        writer.response = response
    out: list[tuple[bytes, bytes]] = [(b"", event) for event in writer.first()]
    told = b""
    for group in groups(made, path, **cut):
        told += replay.comment(group.choice, group.ids)
        for event in writer.group(group):
            out.append((told, event))
            told = b""
    return [*out, *((b"", event) for event in writer.last(sum(map(len, made))))]


def _event(value: Any, kind: str = "") -> bytes:
    return (f"event: {kind}\n" if kind else "").encode() + b"data: " + json.dumps(value).encode() + b"\n\n"


class _Chat:
    kind = "chat.completion.chunk"

    def __init__(self, name: str, choices: int) -> None:
        self._name, self._choices = name, choices
        self._calls: set[tuple[int, str]] = set()

    def first(self) -> list[bytes]:
        role = {"delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return [self._chunk([{"index": index, **role}]) for index in range(self._choices)]

    def group(self, group: Group) -> list[bytes]:
        delta: dict[str, Any] = {}
        for part, text in group.added:
            if part in ("one", "two"):
                delta.setdefault("tool_calls", []).append(self._call(group.choice, part, text))
            elif text:
                delta[part] = text
        end = {"finish_reason": "tool_calls", "stop_reason": None} if group.ends else {"finish_reason": None}
        words = [{"token": f" w{id}", "logprob": len(self._name), "bytes": None} for id in group.ids]
        return [self._chunk([{"index": group.choice, "delta": delta, "logprobs": {"content": words}, **end}])]

    def _call(self, choice: int, part: str, text: str) -> dict[str, Any]:
        index = ("one", "two").index(part)
        call: dict[str, Any] = {"index": index, "function": {"arguments": text}}
        if (choice, part) not in self._calls:
            self._calls.add((choice, part))
            call |= {"id": f"call-{self._name}-{choice}-{part}", "type": "function"}
            call["function"] = {"name": part, "arguments": text}
        return call

    def last(self, count: int) -> list[bytes]:
        usage = {"prompt_tokens": 3, "total_tokens": 3 + count, "completion_tokens": count}
        return [self._chunk([], usage=usage), b"data: [DONE]\n\n"]

    def _chunk(self, choices: list[Any], **more: Any) -> bytes:
        made = {"id": f"id-{self._name}", "object": self.kind, "created": len(self._name), "model": "base"}
        text = json.dumps({**made, "choices": choices, **more}, separators=(",", ":"))
        return b"data: " + text.encode() + b"\n\n"


class _Completions(_Chat):
    kind = "text_completion"

    def first(self) -> list[bytes]:
        return []

    def group(self, group: Group) -> list[bytes]:
        text = "".join(text for _, text in group.added)
        words = [f" w{id}" for id in group.ids]
        logprobs = {"tokens": words, "token_logprobs": [len(self._name)] * len(words), "text_offset": [0] * len(words)}
        end = {"finish_reason": "length" if group.ends else None, "stop_reason": None}
        return [self._chunk([{"index": group.choice, "text": text, "logprobs": logprobs, **end}])]


class _Messages:
    def __init__(self, name: str, _: int) -> None:
        self._name, self._index, self._open = name, -1, ""

    def first(self) -> list[bytes]:
        message = {"id": f"msg-{self._name}", "type": "message", "role": "assistant", "content": [], "usage": {}}
        return [_named({"type": "message_start", "message": message})]

    def group(self, group: Group) -> list[bytes]:
        out: list[bytes] = []
        for part, text in group.added:
            if part != self._open:
                out += [*self._close(), *self._begin(part)]
            key = {"reasoning": "thinking", "content": "text"}.get(part, "partial_json")
            kind = {"partial_json": "input_json_delta"}.get(key, f"{key}_delta")
            if text:
                out.append(self._delta({"type": kind, key: text}))
        return out

    def _begin(self, part: str) -> list[bytes]:
        self._index, self._open = self._index + 1, part
        block: dict[str, Any] = {"reasoning": {"type": "thinking"}, "content": {"type": "text"}}.get(part) or {
            "type": "tool_use", "id": f"tool-{self._name}-{part}", "name": part, "input": {},
        }  # fmt: skip
        return [_named({"type": "content_block_start", "index": self._index, "content_block": block})]

    def _close(self) -> list[bytes]:
        if not self._open:
            return []
        signed = self._open == "reasoning"
        signature = [self._delta({"type": "signature_delta", "signature": self._name})] if signed else []
        return [*signature, _named({"type": "content_block_stop", "index": self._index})]

    def _delta(self, delta: dict[str, str]) -> bytes:
        return _named({"type": "content_block_delta", "index": self._index, "delta": delta})

    def last(self, count: int) -> list[bytes]:
        stop = {"stop_reason": "tool_use", "stop_sequence": None}
        delta = {"type": "message_delta", "delta": stop, "usage": {"input_tokens": 3, "output_tokens": count}}
        return [*self._close(), _named(delta), _named({"type": "message_stop"})]


class _Responses:
    def __init__(self, name: str, _: int) -> None:
        self._name, self._number, self._open, self._text = name, 0, "", ""
        self._items: list[dict[str, Any]] = []
        self.response = f"resp_{name}"

    def first(self) -> list[bytes]:
        return [self._event(kind, response=self._response()) for kind in ("created", "in_progress")]

    def group(self, group: Group) -> list[bytes]:
        out: list[bytes] = []
        for part, text in group.added:
            if part != self._open:
                out += [*self._close(), *self._begin(part)]
            self._text += text
            if text:
                out.append(self._event(f"{_kind(part)}.delta", **self._place(), delta=text))
        return out

    def _begin(self, part: str) -> list[bytes]:
        self._open, self._text = part, ""
        item = {"id": f"item-{self._name}-{part}", "type": _kind(part), "status": "in_progress"}
        if part in ("one", "two"):
            item |= {"call_id": f"call-{self._name}-{part}", "name": part, "arguments": ""}
        self._items.append(item)
        return [self._event("output_item.added", output_index=len(self._items) - 1, item=item)]

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._items[-1]["id"], "output_index": len(self._items) - 1, "content_index": 0}

    def _close(self) -> list[bytes]:
        if not self._open:
            return []
        self._items[-1] |= {"status": "completed", "text": self._text}
        done = self._event(f"{_kind(self._open)}.done", **self._place(), text=self._text)
        return [done, self._event("output_item.done", output_index=len(self._items) - 1, item=self._items[-1])]

    def _response(self, **more: Any) -> dict[str, Any]:
        made = {"id": self.response, "created_at": len(self._name), "status": "in_progress", "output": []}
        return {**made, "usage": None, **more}

    def last(self, count: int) -> list[bytes]:
        closed = self._close()
        usage = {"input_tokens": 3, "output_tokens": count}
        whole = self._response(status="completed", output=self._items, usage=usage)
        return [*closed, self._event("completed", response=whole)]

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return _named({"type": f"response.{kind}", "sequence_number": self._number - 1, **fields})


def _kind(part: str) -> str:
    return {"reasoning": "reasoning_text", "content": "output_text"}.get(part, "function_call_arguments")


def _named(value: dict[str, Any]) -> bytes:
    return _event(value, value["type"])


def seen(path: str, raw: bytes) -> Any:
    """What a client makes of a whole stream, whatever it was cut into. Fails if that is no stream of its API."""
    values = []
    for event in raw.split(b"\n\n")[:-1]:
        lines = event.split(b"\n")
        assert len(lines) == (1 if path in (CHAT, COMPLETIONS) else 2), event
        if lines[-1] == b"data: [DONE]":
            values.append(None)
            continue
        value = json.loads(lines[-1].removeprefix(b"data: "))
        assert len(lines) == 1 or lines[0] == b"event: " + value["type"].encode()
        values.append(value)
    return {MESSAGES: _seen_messages, RESPONSES: _seen_response}.get(path, _seen_chat)(values)


def _seen_chat(values: list[Any]) -> Any:
    done = values.pop()
    assert done is None and values.count(None) == 0
    usage = values.pop()
    assert usage["choices"] == []
    choices: dict[int, dict[str, Any]] = {}
    for value in values:
        (choice,) = value["choices"]
        found = choices.setdefault(choice["index"], {"roles": 0, "text": {}, "tokens": [], "calls": {}, "end": []})
        assert not found["end"], "nothing follows an end"
        delta = choice.get("delta", {"content": choice.get("text")})
        found["roles"] += "role" in delta
        for key, text in delta.items():
            if isinstance(text, str) and key != "role":
                found["text"][key] = found["text"].get(key, "") + text
        for call in delta.get("tool_calls", ()):
            name, function = call["index"], call["function"]
            assert ("id" in call) == ("name" in function) == (name not in found["calls"])
            made = found["calls"].setdefault(name, {"name": function.get("name"), "arguments": ""})
            made["arguments"] += function["arguments"]
        logprobs = choice["logprobs"] or {}
        found["tokens"] += [entry["token"] for entry in logprobs.get("content", ())] + logprobs.get("tokens", [])
        if choice["finish_reason"] is not None:
            found["end"].append(choice["finish_reason"])
    assert len({(value["id"], value["object"], value["created"], value["model"]) for value in (*values, usage)}) == 1
    return choices, usage["usage"]


def _seen_messages(values: list[Any]) -> Any:
    start, *middle, delta, stop = values
    assert (start["type"], delta["type"], stop) == ("message_start", "message_delta", {"type": "message_stop"})
    blocks: list[Any] = []
    is_open = False
    for value in middle:
        match value["type"]:
            case "content_block_start":
                assert not is_open and value["index"] == len(blocks)
                assert value["content_block"].pop("id", "tool").startswith("tool")
                blocks.append([value["content_block"], "", 0])
            case "content_block_delta":
                assert is_open and value["index"] == len(blocks) - 1
                found = value["delta"]
                blocks[-1][2] += "signature" in found
                blocks[-1][1] += found.get("text") or found.get("thinking") or found.get("partial_json") or ""
            case "content_block_stop":
                assert is_open and value["index"] == len(blocks) - 1
        is_open = value["type"] != "content_block_stop"
    return blocks, delta["delta"], delta["usage"]


def _seen_response(values: list[Any]) -> Any:
    assert [value["sequence_number"] for value in values] == list(range(len(values))), "no gap"
    texts: dict[str, str] = {}
    names: list[str] = []
    others = []
    for value in values:
        if value["type"].endswith(".delta"):
            texts[value["item_id"]] = texts.get(value["item_id"], "") + value["delta"]
        else:
            others.append({key: item for key, item in value.items() if key not in ("sequence_number", "item_id")})
            if (item := value.get("item")) is not None and item["id"] not in names:
                names.append(item["id"])
    responses = [value["response"] for value in others if "response" in value]
    assert len({(response.pop("id"), response.pop("created_at")) for response in responses}) == 1
    assert [item["id"] for item in responses[-1]["output"]] == names == list(texts)
    assert [item["text"] for item in responses[-1]["output"]] == list(texts.values())
    for item in [*responses[-1]["output"], *(value["item"] for value in others if "item" in value)]:
        del item["id"]
        assert item.pop("call_id", "call").startswith("call")
    return list(texts.values()), others
