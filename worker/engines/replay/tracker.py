"""What one request's choices begin with, and which tokens they have made since somebody was told. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from config import replay
from worker.engines.replay.envelope import Tokens


class NotFollowed(RuntimeError):
    """The engine made another token than it was given: the answer would not be the one that was begun."""


class Tracker:
    """Choices are counted over all calls of the engine that the request leads to, in their order."""

    def __init__(self, first: Tokens, tell: bool) -> None:
        self._first = first
        self.tell = tell
        self._choices = 0
        self._counts: dict[int, int] = {}
        self._made: dict[int, list[int]] = {}

    def call(self, choices: int) -> tuple[int, Tokens]:
        """For a call that makes so many: the number of its first, and what each begins with."""
        base = self._choices
        self._choices += choices
        return base, [self._first[i] if i < len(self._first) else [] for i in range(base, base + choices)]

    def made(self, choice: int, tokens: Iterable[int]) -> None:
        """The next ``tokens`` of a choice. Raises NotFollowed."""
        count = self._counts.get(choice, 0)
        new = list(tokens)
        if choice < len(self._first):
            given = self._first[choice][count : count + len(new)]
            if new[: len(given)] != given:
                raise NotFollowed("the engine did not follow the tokens that it was given")
        self._counts[choice] = count + len(new)
        if self.tell and new:
            self._made.setdefault(choice, []).extend(new)

    def comments(self) -> bytes:
        """The lines that tell of what was made since the last ones."""
        if not self._made:
            return b""
        made, self._made = self._made, {}
        return b"".join(replay.comment(choice, tokens) for choice, tokens in made.items())
