"""What a model is asked to write. Pure: request N of a plan is always the same."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from cluster.tools.batch import structured
from cluster.tools.batch.lines import BatchRequest, Defaults, ask_of
from cluster.tools.dataset.parsing import WrittenRow

#: Rows that one request asks for, examples that it shows, and topics that are thought of first.
ROWS, _SHOWN, TOPICS = 5, 3, 40

#: Tokens of an answer.
_TOKENS = 4096

_KINDS = (
    "a short question of fact", "a question that asks how something is done, step by step",
    "a question about a concrete case, with names and numbers", "a question that compares two things",
    "a question that rests on a mistake, which the answer puts right", "a task: something to write, sort or work out",
    "a question with a condition or an exception in it", "a casual question, as typed on a phone",
)  # fmt: skip
_ASKERS = ("a beginner", "somebody with some experience", "an expert")

_TASK = (
    "You write training data for a language model: questions as real people ask them, and answers that are correct, "
    "complete and to the point. Each row stands by itself: none refers to another, to this task or to a text that is "
    "not there. Write no placeholders. Reply with JSON only."
)


@dataclass(frozen=True, slots=True)
class DataPlan:
    """What is wanted of ``model``. ``language``: empty for that of the domain. ``examples``: rows as they should be."""

    domain: str
    model: str
    language: str = ""
    examples: Sequence[WrittenRow] = ()
    temperature: float = 0.9
    seed: int = 0

    def ask(self, number: int, topics: Sequence[str]) -> BatchRequest:
        """The request of that ``number``: 0 is for topics, any other for rows about one of ``topics``."""
        text, schema = (self._topics(), _TOPICS_SCHEMA) if number == 0 else (self._rows(number, topics), _ROWS_SCHEMA)
        body = {
            "model": self.model, "messages": [{"role": "system", "content": _TASK}, {"role": "user", "content": text}],
            "temperature": self.temperature, "seed": self.seed + number, "max_tokens": _TOKENS,
            structured.FIELD: structured.format_of("rows" if number else "topics", schema),
        }  # fmt: skip
        return ask_of(number, json.dumps(body).encode(), Defaults(self.model))

    def _topics(self) -> str:
        lines = [
            f"The domain: {self.domain}",
            f"Name {TOPICS} topics that together cover what people ask in it, common and rare, each in a few words.",
            'The form: {"topics": ["…", …]}',
        ]
        return "\n".join([*lines, *self._language()])

    def _rows(self, number: int, topics: Sequence[str]) -> str:
        turn, place = divmod(number - 1, len(topics))
        random = Random(f"{self.seed} {number}")
        kinds = random.sample(_KINDS, ROWS)
        lines = [
            f"The domain: {self.domain}", f"The topic: {topics[place]}",
            f"Who asks: {_ASKERS[(turn + place) % len(_ASKERS)]}",
            f"Write {ROWS} rows, one of each kind:", *(f"- {kind}" for kind in kinds),
            'The form: {"rows": [{"question": "…", "answer": "…"}, …]}',
        ]  # fmt: skip
        if turn:
            lines.insert(2, f"There are {turn * ROWS} rows on this topic already: look for what is asked rarely.")
        if self.examples:
            shown = random.sample(list(self.examples), min(_SHOWN, len(self.examples)))
            lines.append("Rows of the style that is wanted, whose questions are not to be asked again:")
            lines += [json.dumps({"question": r.question, "answer": r.answer}, ensure_ascii=False) for r in shown]
        return "\n".join([*lines, *self._language()])

    def _language(self) -> list[str]:
        return [f"The language of all texts: {self.language}"] if self.language else []


def _strings(*names: str) -> dict[str, Any]:
    return {
        "type": "object", "properties": {name: {"type": "string"} for name in names}, "required": list(names),
        "additionalProperties": False,
    }  # fmt: skip


def _list(name: str, items: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object", "properties": {name: {"type": "array", "items": items}}, "required": [name],
        "additionalProperties": False,
    }  # fmt: skip


_TOPICS_SCHEMA = _list("topics", {"type": "string"})
_ROWS_SCHEMA = _list("rows", _strings("question", "answer"))
