"""The rows of an evaluation: what is asked, and what would be right. Pure.

A row is OpenAI's ``messages``, of which the last, an assistant's, is the reference; a question and its answer under one
of the usual names; or ShareGPT's ``conversations``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config import bounded
from config.errors import UsageError
from config.values import patterns

#: Rows, bytes of one, references of one, and bad ones that are told of.
MOST_ROWS, LONGEST_ROW, _MOST_REFERENCES, _TOLD = 100_000, 1 << 20, 100, 5

QUESTIONS = ("prompt", "question", "instruction")
ANSWERS = ("answer", "reference", "references", "output", "response", "completion")

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}

Message = Mapping[str, Any]


class BadRow(ValueError):
    """No row; the text says why."""


@dataclass(frozen=True, slots=True)
class EvalRow:
    """Line ``line`` (from 1) of the data. ``messages`` are asked; any of ``references`` would be right; ``pattern``:
    what an answer has to match, of that row alone."""

    line: int
    messages: tuple[Message, ...]
    references: tuple[str, ...] = ()
    pattern: str | None = None

    @property
    def question(self) -> str:
        """The last thing that is asked, as text."""
        content = self.messages[-1].get("content")
        return content if isinstance(content, str) else str(content)


@dataclass(frozen=True, slots=True)
class Answer:
    """To one row: its ``text`` or, where that is None, what went ``wrong``. ``tokens``: generated; ``cut``: the limit
    of tokens was reached."""

    text: str | None
    wrong: str = ""
    tokens: int = 0
    cut: bool = False


def read_rows(lines: Iterable[bytes], most: int = MOST_ROWS) -> list[EvalRow]:
    """Those of JSON lines; empty ones are passed over. Raises UsageError which names the bad ones."""
    rows: list[EvalRow] = []
    wrong: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if len(rows) + len(wrong) >= most:
            raise UsageError(f"more than {most} rows", exit_code=2)
        try:
            rows.append(row_of(number, line))
        except ValueError as error:
            wrong.append(f"line {number}: {error}")
    if wrong:
        more = f"; and {len(wrong) - _TOLD} more" if len(wrong) > _TOLD else ""
        raise UsageError("; ".join(wrong[:_TOLD]) + more, exit_code=2)
    if not rows:
        raise UsageError("no row in it", exit_code=2)
    return rows


def row_of(number: int, line: bytes) -> EvalRow:
    """Raises ValueError."""
    if len(line) > LONGEST_ROW:
        raise BadRow(f"longer than {LONGEST_ROW} bytes")
    try:
        data = bounded.parse_json(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
    except bounded.Unfit:
        raise
    except ValueError:
        raise BadRow("not JSON") from None
    if not isinstance(data, dict):
        raise BadRow("not an object")
    pattern = data.get("pattern")
    if pattern is not None:
        if not isinstance(pattern, str):
            raise BadRow("pattern has to be a text")
        patterns.bounded(pattern)
    messages, references = _asked(data)
    return EvalRow(number, messages, references, pattern)


def _asked(data: Mapping[str, Any]) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    if "messages" in data:
        return _conversation(_messages(data["messages"], "messages"), data)
    if "conversations" in data:
        return _conversation(_messages(_from_sharegpt(data["conversations"]), "conversations"), data)
    name = next((name for name in QUESTIONS if name in data), None)
    if name is None:
        raise BadRow(f"none of messages, conversations, {', '.join(QUESTIONS)}")
    question = _text(data[name], name)
    if name == "instruction" and data.get("input"):  # as Alpaca has them
        question += f"\n\n{_text(data['input'], 'input')}"
    system = [{"role": "system", "content": _text(data["system"], "system")}] if data.get("system") else []
    return (*system, {"role": "user", "content": question}), _given(data)


def _conversation(
    messages: tuple[Message, ...], data: Mapping[str, Any]
) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """The last answer is the reference, unless another is given."""
    references = _given(data)
    if messages[-1]["role"] == "assistant":
        last = messages[-1].get("content")
        messages = messages[:-1]
        if not references:
            references = (_text(last, "the last message"),)
    if not messages or messages[-1]["role"] not in ("user", "tool"):
        raise BadRow("nothing is asked: the last message before the answer has to be a user's")
    return messages, references


def _given(data: Mapping[str, Any]) -> tuple[str, ...]:
    name = next((name for name in ANSWERS if data.get(name) is not None), None)
    if name is None:
        return ()
    found = data[name] if isinstance(data[name], list) else [data[name]]
    if len(found) > _MOST_REFERENCES:
        raise BadRow(f"{name}: more than {_MOST_REFERENCES}")
    # A number is what answers to sums are often given as.
    return tuple(str(one) if type(one) in (int, float) else _text(one, name) for one in found)


def _messages(given: Any, where: str) -> tuple[Message, ...]:
    if not isinstance(given, list) or not given:
        raise BadRow(f"{where} has to be a list that is not empty")
    for message in given:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRow(f"{where}: each is an object with a role")
    return tuple(given)


def _from_sharegpt(given: Any) -> list[Message]:
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise BadRow("conversations has to be a list")
    found: list[Message] = []
    for turn in given:
        if not isinstance(turn, dict) or str(turn.get("from")) not in _ROLES:
            raise BadRow(f"conversations: each is an object with from, one of {', '.join(_ROLES)}")
        found.append({"role": _ROLES[str(turn["from"])], "content": _text(turn.get("value"), "value")})
    return found


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise BadRow(f"{where} has to be a text that is not empty")
    return value
