"""How far the writing of a data set is: what came of the answers so far. Pure: the same answers make the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.tools.dataset import parsing
from cluster.tools.dataset.duplicates import Texts
from cluster.tools.dataset.parsing import WrittenRow
from cluster.tools.dataset.prompts import ROWS

#: Answers in a row that brought nothing new, failures included: no more is to be had.
_BARREN = 20

#: Bytes of a token, about, where a server does not count them.
_BYTES_A_TOKEN = 4


@dataclass(slots=True)
class Writing:
    """``count`` rows are wanted, for ``budget`` tokens of questions and answers at most (None: any number).

    ``rows``: so many there are; ``duplicates``, ``refused``: rows that were none, or not new; ``tokens``: as the server
    counts them, ``estimated`` where it does not; ``barren``: the latest answers that brought nothing."""

    count: int
    budget: int | None = None
    rows: int = 0
    answers: int = 0
    failed: int = 0
    duplicates: int = 0
    refused: int = 0
    tokens: int = 0
    estimated: bool = False
    barren: int = 0
    topics: Sequence[str] = ()
    _known: Texts = field(default_factory=Texts)

    def know(self, examples: Sequence[WrittenRow]) -> None:
        """What is not to be asked again."""
        for row in examples:
            self._known.add(row.question)

    def take_topics(self, answer: Mapping[str, Any], domain: str) -> None:
        """Those of the first answer; the domain itself where it names none."""
        self._count(answer)
        self.topics = parsing.topics(_text(answer)) or [domain]

    def take(self, answer: Mapping[str, Any]) -> list[WrittenRow]:
        """The rows that an answer adds: the new ones, as many as are wanted."""
        self._count(answer)
        before, new = self.rows, list[WrittenRow]()
        if not answer.get("error"):
            found, refused = parsing.rows(_text(answer))
            self.refused += refused
            for row in found:
                if self.rows >= self.count:
                    break
                if self._known.add(row.question):
                    new.append(row)
                    self.rows += 1
                else:
                    self.duplicates += 1
        self.barren = 0 if self.rows > before else self.barren + 1
        return new

    def _count(self, answer: Mapping[str, Any]) -> None:
        if answer.get("error"):
            self.failed += 1
            return
        self.answers += 1
        tokens = _tokens(answer.get("usage"))
        if tokens is None:
            self.estimated = True
            tokens = len(_text(answer).encode(errors="replace")) // _BYTES_A_TOKEN
        self.tokens += tokens

    def wants_more(self, under_way: int) -> bool:
        """Whether one more request is worth it, while so many are ``under_way``: each brings as many rows and takes as
        many tokens as those before did on average."""
        if self.ended(under_way):
            return False
        answers = max(1, self.answers - 1)  # the first was for topics
        rows = self.rows / answers if self.rows else float(ROWS)
        return self.rows + under_way * rows < self.count and not self._spent(under_way)

    def _spent(self, under_way: int) -> bool:
        each = self.tokens / self.answers if self.answers else 0.0
        return self.budget is not None and self.tokens + (under_way + 1) * each > self.budget

    def ended(self, under_way: int = 0) -> str:
        """Why there will be no more; empty where there will."""
        if self.rows >= self.count:
            return "all that were wanted"
        if self.barren >= _BARREN:
            return f"the last {self.barren} answers brought nothing new"
        return "the budget is used up" if not under_way and self._spent(0) else ""


def _text(answer: Mapping[str, Any]) -> str:
    return str(answer.get("text") or "")


def _tokens(usage: Any) -> int | None:
    """Of the question and the answer."""
    if not isinstance(usage, Mapping):
        return None
    total = usage.get("total_tokens")
    if isinstance(total, int) and total >= 0:
        return total
    parts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    return sum(part for part in parts if isinstance(part, int)) if any(isinstance(p, int) for p in parts) else None
