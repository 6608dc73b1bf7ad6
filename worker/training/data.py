"""Rows of a data set: chats as ShareGPT, OpenAI and others write them, as the one form that is trained on. Pure.

A row is a JSON object with one of

- ``messages`` (OpenAI: ``role``, ``content``, ``tool_calls`` …; an answer with ``weight`` 0 is not learned) and
  ``tools``;
- ``conversations`` (ShareGPT: ``from``, ``value``) and ``system``;
- ``prompt`` and ``completion``, texts or lists of messages;
- ``instruction``, ``input`` and ``output`` (Alpaca), and ``system``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config import bounded

#: Bytes of a row and values in it, messages in it, rows.
MOST_OF_A_ROW, _VALUES, _MOST_MESSAGES, MOST_ROWS = 4 << 20, 100_000, 1000, 1_000_000

_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "model": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "system": "system", "developer": "developer", "tool": "tool",
    "observation": "tool", "function_response": "tool", "function": "tool",
}  # fmt: skip

#: What else of a message a chat template may look at.
_KEPT = ("tool_calls", "tool_call_id", "name", "reasoning_content")

Message = Mapping[str, Any]


class RowError(ValueError):
    """A row that cannot be trained on; the text says which, and why."""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """``messages`` and ``tools`` as a chat template takes them; ``learned``: the places of the answers that are
    learned. ``plain``: it was a prompt and its completion, which can do without a chat template."""

    messages: tuple[Message, ...]
    learned: frozenset[int]
    tools: tuple[Any, ...] | None = None
    plain: bool = False


def read_lines(lines: Iterable[bytes]) -> Iterator[Dialogue]:
    """Of JSON lines; empty ones are nothing. Raises RowError, which names the line."""
    return _rows((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _rows(lines: Iterable[tuple[int, bytes]]) -> Iterator[Dialogue]:
    for count, (number, line) in enumerate(lines):
        if count >= MOST_ROWS:
            raise RowError(f"more than the {MOST_ROWS} rows that are taken")
        try:
            yield dialogue(_object(line))
        except RowError as error:
            raise RowError(f"line {number}: {error}") from None


def read_array(raw: bytes) -> Iterator[Dialogue]:
    """Of one JSON array. Raises RowError, which names the row, the first being 1."""
    try:
        found = bounded.parse_json(raw, 20 * MOST_ROWS)
    except ValueError as error:
        raise RowError(f"no JSON: {error}") from None
    if not isinstance(found, list) or len(found) > MOST_ROWS:
        raise RowError(f"it must be a list of at most {MOST_ROWS} rows")
    for number, row in enumerate(found, 1):
        try:
            yield dialogue(row)
        except RowError as error:
            raise RowError(f"row {number}: {error}") from None


def _object(line: bytes) -> Any:
    if len(line) > MOST_OF_A_ROW:
        raise RowError(f"longer than the {MOST_OF_A_ROW} bytes that are taken")
    try:
        return bounded.parse_json(line, _VALUES)
    except ValueError as error:
        raise RowError(f"no JSON: {error}") from None


def dialogue(row: Any) -> Dialogue:
    """Raises RowError."""
    if not isinstance(row, Mapping):
        raise RowError("no JSON object")
    if "messages" in row:
        return _chat(_system(row) + _messages(row["messages"]), row.get("tools"))
    if "conversations" in row:
        return _chat(_system(row) + _messages(row["conversations"]), row.get("tools"))
    if "prompt" in row and "completion" in row:
        return _pair(row["prompt"], row["completion"])
    if "instruction" in row and "output" in row:
        asked = "\n\n".join(filter(None, [_text(row["instruction"]), _text(row.get("input") or "")]))
        return _chat([*_system(row), _message("user", asked), _message("assistant", _text(row["output"]))])
    raise RowError("none of messages, conversations, prompt and completion, instruction and output")


def _system(row: Mapping[str, Any]) -> list[Message]:
    given = row.get("system")
    return [_message("system", _text(given))] if given else []


def _pair(prompt: Any, completion: Any) -> Dialogue:
    if isinstance(prompt, str) and isinstance(completion, str):
        found = _chat([_message("user", prompt), _message("assistant", completion)])
        return Dialogue(found.messages, found.learned, plain=True)
    asked = [_message("user", prompt)] if isinstance(prompt, str) else _messages(prompt)
    answer = [_message("assistant", completion)] if isinstance(completion, str) else _messages(completion)
    found = _chat(asked + answer)
    return Dialogue(found.messages, frozenset(at for at in found.learned if at >= len(asked)))


def _messages(given: Any) -> list[Message]:
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise RowError("no list of messages")
    if len(given) > _MOST_MESSAGES:
        raise RowError(f"more than the {_MOST_MESSAGES} messages that are taken")
    return [_read(each) for each in given]


def _read(given: Any) -> Message:
    if not isinstance(given, Mapping):
        raise RowError("a message that is no object")
    role = given.get("role", given.get("from"))
    if not isinstance(role, str) or role not in _ROLES:
        raise RowError(f"a message of nobody known: {str(role)[:40]!r}")
    more = {key: given[key] for key in _KEPT if given.get(key)}
    content = given.get("content", given.get("value"))
    if given.get("weight", 1) not in (0, 1):
        raise RowError("a weight other than 0 and 1")
    if given.get("weight") == 0:
        more["weight"] = 0  # taken out again below
    return _message(_ROLES[role], "" if content is None and more.get("tool_calls") else _text(content), **more)


def _message(role: str, content: str, **more: Any) -> Message:
    return {"role": role, "content": content, **more}


def _text(given: Any) -> str:
    """Parts of kind ``text`` are put together, as vLLM does."""
    if isinstance(given, str):
        return given
    if isinstance(given, list) and all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in given):
        return "\n".join(part["text"] for part in given)
    raise RowError("a content that is no text")


def _chat(messages: Sequence[Message], tools: Any = None) -> Dialogue:
    """What comes after the last answer teaches nothing and is left out."""
    if tools is not None and not isinstance(tools, list):
        raise RowError("tools that are no list")
    answers = [at for at, each in enumerate(messages) if each["role"] == "assistant"]
    learned = frozenset(at for at in answers if messages[at].get("weight", 1) and _says(messages[at]))
    if not learned:
        raise RowError("nothing to learn: no answer of the assistant")
    kept = tuple({k: v for k, v in each.items() if k != "weight"} for each in messages[: max(answers) + 1])
    return Dialogue(kept, learned, tuple(tools) if tools else None)


def _says(message: Message) -> bool:
    return bool(message["content"] or message.get("tool_calls"))
