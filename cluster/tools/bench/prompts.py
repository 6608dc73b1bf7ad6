"""What is asked: prompts from a file or a list, or made up."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from config import bounded
from config.errors import UsageError, nearest

#: Bytes of a file of prompts; the usual ShareGPT file has 670 MB.
_MOST = 2 << 30

_KEYS = ("prompt", "messages", "output_tokens")

_WORDS = (
    "river", "stone", "winter", "light", "garden", "letter", "market", "bridge", "silver", "road", "music", "window",
    "paper", "forest", "island", "engine", "summer", "number", "travel", "copper", "mountain", "story", "harbour",
    "morning", "question", "answer", "machine", "picture", "weather", "village", "doctor", "captain", "between",
    "under", "after", "before", "without", "often", "slowly", "always", "never", "small", "large", "early", "late",
    "old", "new", "red", "green", "blue", "write", "carry", "follow", "begin", "finish", "build", "open", "close",
    "find", "keep", "tell", "show", "count", "wait",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BenchPrompt:
    """``content``: a text, or the messages of a chat. ``output_tokens``: of its answer, where the prompt says so."""

    content: str | list[dict[str, Any]]
    output_tokens: int | None = None

    def body(self, chat: bool) -> dict[str, Any]:
        """Its part of a request. Raises UsageError where messages are to be completed."""
        if isinstance(self.content, str):
            return {"messages": [{"role": "user", "content": self.content}]} if chat else {"prompt": self.content}
        if not chat:
            raise UsageError("prompts that are messages need --endpoint chat", exit_code=2)
        return {"messages": self.content}


def made_up(count: int, words: int, chance: Random) -> list[BenchPrompt]:
    """``count`` prompts of so many ``words``. Each begins with a number of its own, so that none is the beginning of
    another: what a cache of prefixes keeps of one helps no other."""
    texts = ([f"{number:06d}", *chance.choices(_WORDS, k=max(0, words - 1))] for number in range(count))
    return [BenchPrompt(" ".join(text)) for text in texts]


def read_prompts(path: Path) -> list[BenchPrompt]:
    """JSON objects with `prompt` or `messages` and perhaps `output_tokens`, one a line in a file named .jsonl and in
    one list in a file named .json, where they may also be conversations as ShareGPT has them; in any other file one
    text a line. Raises UsageError naming file and line."""
    text = bounded.read_given(path, _MOST)
    if path.suffix == ".json":
        return _array(str(path), _json(str(path), text))
    lines = text.split("\n")
    numbered = [(f"{path}, line {number}", line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise UsageError(f"{path}: no prompt in it", exit_code=2)
    if path.suffix != ".jsonl":
        return [BenchPrompt(line) for _, line in numbered]
    return [_prompt(where, _json(where, line)) for where, line in numbered]


def _array(where: str, items: Any) -> list[BenchPrompt]:
    """A list of prompts. Of conversations the first question is asked, as `vllm bench serve` does; those without one
    are left out."""
    if not isinstance(items, list):
        raise UsageError(f"{where}: a list is needed; one object a line goes into a file named .jsonl", exit_code=2)
    if not all(isinstance(item, dict) and "conversations" in item for item in items):
        return listed(where, items)
    found = [BenchPrompt(text) for text in map(_first_question, items) if text]
    if not found:
        raise UsageError(f"{where}: no prompt in it", exit_code=2)
    return found


def _first_question(item: dict[str, Any]) -> str | None:
    """Of a ShareGPT conversation."""
    turns = item["conversations"]
    turn = turns[0] if isinstance(turns, list) and turns else None
    value = turn.get("value") if isinstance(turn, dict) and turn.get("from") in ("human", "user") else None
    return value if isinstance(value, str) and value.strip() else None


def listed(where: str, items: Sequence[Any]) -> list[BenchPrompt]:
    """Those of a settings file: texts, or mappings with the keys that lines of a .jsonl file have."""
    found = [
        BenchPrompt(item) if isinstance(item, str) else _prompt(f"{where}[{number}]", item)
        for number, item in enumerate(items)
    ]
    if not found:
        raise UsageError(f"{where}: no prompt in it", exit_code=2)
    return found


def _json(where: str, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{where}: no JSON: {error}", exit_code=2) from None


def _prompt(where: str, item: Any) -> BenchPrompt:
    if not isinstance(item, dict):
        raise UsageError(f"{where}: an object with a prompt is needed", exit_code=2)
    for key in item:
        if key not in _KEYS:
            raise UsageError(f"{where}: unknown key {key!r}{nearest(str(key), _KEYS)}", exit_code=2)
    text, messages, tokens = item.get("prompt"), item.get("messages"), item.get("output_tokens")
    if (text is None) == (messages is None):
        raise UsageError(f"{where}: either prompt or messages is needed", exit_code=2)
    if tokens is not None and (not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1):
        raise UsageError(f"{where}: output_tokens has to be a whole number from 1, not {tokens!r}", exit_code=2)
    if isinstance(text, str):
        return BenchPrompt(text, tokens)
    if text is not None:
        raise UsageError(f"{where}: prompt has to be a text", exit_code=2)
    if not isinstance(messages, list) or not messages or not all(isinstance(message, dict) for message in messages):
        raise UsageError(f"{where}: messages has to be a list of objects", exit_code=2)
    return BenchPrompt(messages, tokens)
