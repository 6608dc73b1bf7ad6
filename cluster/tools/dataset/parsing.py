"""What a model has written, as far as it is of use. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from cluster.tools.batch import structured

#: Characters of a topic, a question and an answer; topics; rows of one answer.
_LONGEST_TOPIC, _LONGEST_QUESTION, _LONGEST_ANSWER, _MOST_TOPICS, _MOST_ROWS = 200, 8_000, 32_000, 200, 100

_QUESTIONS, _ANSWERS = ("question", "instruction", "prompt", "user", "q"), ("answer", "output", "response", "a")

#: A line of a list: "1. …", "- …".
_ITEM = re.compile(r"\s*(?:[-*•]|\d{1,3}[.)])\s+(.+)")

#: How a model begins that will not answer, or speaks of itself.
_REFUSAL = re.compile(
    r"\W*(?:i(?:'|’)?m sorry|i am sorry|sorry, (?:but )?i|i can(?:not|'t|’t) |i am unable|i(?:'|’)m unable|as an ai\b|"
    r"as a language model|抱歉，?我|对不起，?我|很抱歉|作为(?:一个|一名)?(?:ai|人工智能|语言模型))",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class WrittenRow:
    question: str
    answer: str

    def line(self, system: str) -> bytes:
        """As a line of OpenAI's ``messages``."""
        messages = [{"role": "system", "content": system}] if system else []
        messages += [{"role": "user", "content": self.question}, {"role": "assistant", "content": self.answer}]
        return json.dumps({"messages": messages}, ensure_ascii=False).encode() + b"\n"


def topics(text: str) -> list[str]:
    """Those that an answer names, in JSON or as a list; none where there are none."""
    found = next((list(_texts(value)) for value in structured.values(text)), [])
    found = found or [match[1] for match in map(_ITEM.match, text.splitlines()) if match]
    kept = (one.strip() for one in found if one.strip() and len(one) <= _LONGEST_TOPIC and _is_whole(one))
    return list(dict.fromkeys(kept))[:_MOST_TOPICS]


def _texts(value: Any) -> Iterator[str]:
    """Texts of a list, or of the lists of an object."""
    lists = value.values() if isinstance(value, dict) else [value]
    for one in lists:
        yield from (text for text in one if isinstance(text, str)) if isinstance(one, list) else ()


def rows(text: str) -> tuple[list[WrittenRow], int]:
    """The rows of an answer, and how many of what it holds are none: empty, too long, a refusal. An answer without any
    counts as one of those."""
    found: list[WrittenRow] = []
    refused = 0
    for item in _items(text):
        if (row := _row(item)) is not None:
            found.append(row)
        else:
            refused += 1
    return found, refused if found or refused else 1


def _items(text: str) -> Iterator[Any]:
    """What may be a row: of lists, of the lists of objects, and objects that are rows themselves."""
    count = 0
    for value in structured.values(text):
        lists = [one for one in value.values() if isinstance(one, list)] if isinstance(value, dict) else [value]
        for item in [item for one in lists for item in one] or [value]:
            count += 1
            if count > _MOST_ROWS:
                return
            yield item


def _row(item: Any) -> WrittenRow | None:
    if not isinstance(item, dict):
        return None
    question = next((item[name] for name in _QUESTIONS if isinstance(item.get(name), str)), "").strip()
    answer = next((item[name] for name in _ANSWERS if isinstance(item.get(name), str)), "").strip()
    fits = 0 < len(question) <= _LONGEST_QUESTION and 0 < len(answer) <= _LONGEST_ANSWER
    if not fits or question == answer or not _is_whole(question) or not _is_whole(answer):
        return None
    if _REFUSAL.match(answer) or not any(c.isalnum() for c in question):
        return None
    return WrittenRow(question, answer)


def _is_whole(text: str) -> bool:
    """No half of a surrogate pair, which no file can hold, and nothing that is no text."""
    return not any("\ud800" <= c <= "\udfff" or (c < " " and c not in "\n\t\r") for c in text)
