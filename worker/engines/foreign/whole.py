"""One whole answer, of the events of a stream. Pure."""

from __future__ import annotations

import json
from typing import Any

#: As much of a stream is kept until it is whole (bytes).
MOST = 64 * 1024 * 1024


class Broken(Exception):
    """The stream said that it failed; the text says how."""


class WholeAnswer:
    """Takes the events of a stream of one choice (``data: {...}`` and an empty line each), and makes the answer of
    them that the engine would have given at once."""

    def __init__(self, chat: bool) -> None:
        self._chat = chat
        self._rest = b""
        self._head: dict[str, Any] = {}
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._tool_calls: list[Any] = []
        self._finish: str | None = None
        self._size = 0

    def feed(self, data: bytes) -> None:
        """Raises Broken."""
        self._size += len(data)
        if self._size > MOST:
            raise Broken(f"an answer of more than {MOST} bytes")
        *events, self._rest = (self._rest + data).split(b"\n\n")
        for event in events:
            if event.startswith(b"data: ") and event != b"data: [DONE]":
                self._take(event[6:])

    def answer(self) -> dict[str, Any]:
        """Raises Broken where the stream had no end."""
        if self._finish is None:
            raise Broken("its answer has no end")
        choice: dict[str, Any] = {"index": 0, "finish_reason": self._finish, "logprobs": None}
        text = "".join(self._text)
        if self._chat:
            choice["message"] = {"role": "assistant", "content": text}
            if reasoning := "".join(self._reasoning):
                choice["message"]["reasoning_content"] = reasoning
            if self._tool_calls:
                choice["message"]["tool_calls"] = self._tool_calls
        else:
            choice["text"] = text
        made = "chat.completion" if self._chat else "text_completion"
        return {**self._head, "object": made, "choices": [choice]}

    def _take(self, data: bytes) -> None:
        try:
            event = json.loads(data)
            if "error" in event:
                raise Broken(str(event["error"])[:300])
            self._head |= {name: event[name] for name in ("id", "created", "model", "usage") if name in event}
            for choice in event["choices"]:
                self._choice(choice)
        except (ValueError, KeyError, TypeError, AttributeError):
            raise Broken(data[:300].decode(errors="replace")) from None

    def _choice(self, choice: dict[str, Any]) -> None:
        self._finish = choice.get("finish_reason") or self._finish
        delta = choice.get("delta") or {}
        self._text.append(delta.get("content") or choice.get("text") or "")
        self._reasoning.append(delta.get("reasoning_content") or "")
        calls = delta.get("tool_calls") or []
        self._tool_calls += [{name: value for name, value in call.items() if name != "index"} for call in calls]
