"""Takes thoughts and calls of tools out of a model's text as it comes, as vLLM's parsers do. Pure."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any

from worker.sim.api.guidance.guided import CALL, CALL_END, THOUGHT, Guide

_HEAD = re.compile(r'\s*\{"name": "([^"]*)", "arguments": ')


@dataclass
class MadeCall:
    name: str
    id: str
    arguments: str = ""

    def whole(self) -> dict[str, Any]:
        """As an answer that does not stream has it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass
class Part:
    """What has come: of the thoughts, of the text, and of calls, which are numbered; with its name where one begins."""

    reasoning: str = ""
    content: str = ""
    begun: list[tuple[int, MadeCall]] = field(default_factory=list)
    arguments: dict[int, str] = field(default_factory=dict)

    def delta(self) -> dict[str, Any]:
        """As a chat's event has it."""
        made: dict[str, Any] = {"reasoning": self.reasoning} if self.reasoning else {}
        if self.content:
            made["content"] = self.content
        calls: list[dict[str, Any]] = [
            {"id": call.id, "type": "function", "index": index, "function": {"name": call.name}}
            for index, call in self.begun
        ]
        calls += [{"index": index, "function": {"arguments": text}} for index, text in self.arguments.items()]
        return {**made, **({"content": self.content or None, "tool_calls": calls} if calls else {})}


def parser(guide: Guide) -> Parser | None:
    """Of one choice; None where nothing is taken out."""
    return Parser(guide) if guide.parsed else None


class Parser:
    """Of one choice. What it reads just now is its state: thoughts, text, the head of a call, arguments, its end."""

    def __init__(self, guide: Guide) -> None:
        self._state = "thinking" if guide.thinks else "text"
        self._calls_are_read, self._named, self._made = guide.calls, guide.named, guide.made
        self._left = ""
        self._depth, self._quoted, self._escaped = 0, False, False
        self.calls: list[MadeCall] = []

    def feed(self, text: str, ended: bool) -> Part:
        """The next ``text``; ``ended``: it was the last, and nothing is held back."""
        self._left += text
        part = Part()
        while self._left and getattr(self, f"_{self._state}")(part, ended):
            pass
        return part

    def content(self, part: Part) -> str | None:
        """Of a whole answer, of which ``part`` is all: without any it is null, but empty where a call was asked for."""
        return part.content or ("" if self._made or not (self.calls or part.reasoning) else None)

    def finish(self, reason: str | None) -> str | None:
        """Why the choice has ended: of its own will after a call, if it was not made to call this tool."""
        return "tool_calls" if reason == "stop" and self.calls and not self._named else reason

    def _thinking(self, part: Part, ended: bool) -> bool:
        before, found = self._until(THOUGHT, ended)
        part.reasoning += before
        self._state = "text" if found else "thinking"
        return found

    def _text(self, part: Part, ended: bool) -> bool:
        before, found = self._until(CALL, ended) if self._calls_are_read else (self._take(len(self._left)), False)
        part.content += "" if self.calls and not before.strip() else before
        self._state = "head" if found else "text"
        return found

    def _head(self, part: Part, ended: bool) -> bool:
        found = _HEAD.match(self._left)
        if found is None:
            return False
        self._take(found.end())
        call = MadeCall(found[1], f"chatcmpl-tool-{os.urandom(8).hex()}")
        self.calls.append(call)
        part.begun.append((len(self.calls) - 1, call))
        self._state = "arguments"
        return True

    def _arguments(self, part: Part, ended: bool) -> bool:
        """All up to the end of the object."""
        for position, sign in enumerate(self._left):
            if self._quoted:
                self._quoted = sign != '"' or self._escaped
                self._escaped = sign == "\\" and not self._escaped
            elif sign == '"':
                self._quoted = True
            else:
                self._depth += (sign in "{[") - (sign in "}]")
                if self._depth == 0:
                    self._argue(part, self._take(position + 1))
                    self._state = "end"
                    return True
        self._argue(part, self._take(len(self._left)))
        return False

    def _argue(self, part: Part, text: str) -> None:
        index = len(self.calls) - 1
        self.calls[index].arguments += text
        part.arguments[index] = part.arguments.get(index, "") + text

    def _end(self, part: Part, ended: bool) -> bool:
        _, found = self._until(CALL_END, ended)
        self._state = "text" if found else "end"
        return found

    def _until(self, mark: str, ended: bool) -> tuple[str, bool]:
        """What comes before ``mark``, which is taken too if it is there; what may become one is left."""
        before, found, _ = self._left.partition(mark)
        if found:
            self._take(len(before) + len(mark))
            return before, True
        held = 0 if ended else next((n for n in range(len(mark) - 1, 0, -1) if self._left.endswith(mark[:n])), 0)
        return self._take(len(self._left) - held), False

    def _take(self, length: int) -> str:
        taken, self._left = self._left[:length], self._left[length:]
        return taken
