"""A conversation: what was said, and what is sent of it. Pure.

A turn is a question and its answer, both or neither: templates of models want them to alternate.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field


@dataclass(slots=True)
class Conversation:
    """``system`` is sent first where there is one. ``turns``: (question, answer). ``asked``: the last question,
    answered or not."""

    model: str
    system: str = ""
    turns: list[tuple[str, str]] = field(default_factory=list)
    asked: str = ""
    _answered: bool = False

    def ask(self, question: str) -> list[dict[str, str]]:
        """The messages that put ``question``. It is not part of the conversation before `answered`."""
        self.asked, self._answered = question, False
        return [*self.messages(), {"role": "user", "content": question}]

    def answered(self, text: str) -> None:
        """What came of the answer to the last question. Without any the conversation stays as it was before it."""
        if text:
            self.turns.append((self.asked, text))
            self._answered = True

    def again(self) -> str:
        """The last question, to be put again: its answer is forgotten. Empty where there was none."""
        if self._answered:
            self.turns.pop()
            self._answered = False
        return self.asked

    def reset(self) -> None:
        self.turns.clear()
        self.asked, self._answered = "", False

    def messages(self) -> list[dict[str, str]]:
        """All of it, as the API takes it."""
        found = [{"role": "system", "content": self.system}] if self.system else []
        for question, answer in self.turns:
            found += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return found

    def saved(self, as_json: bool) -> str:
        """All of it as a file: what the API takes, or text to read."""
        if as_json:
            return json.dumps({"model": self.model, "messages": self.messages()}, ensure_ascii=False, indent=2) + "\n"
        return f"model: {self.model}\n" + "".join(f"\n## {m['role']}\n\n{m['content']}\n" for m in self.messages())
