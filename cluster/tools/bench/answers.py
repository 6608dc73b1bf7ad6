"""One answer, read as it comes: when its tokens came, how many there were, and whether it came to its end. Pure.

What counts as a token's moment is what `vllm bench serve` counts (its lib/endpoint_request_func.py): each event that
has a choice, the one that only names the role too; the last event, which has only the usage, does not.
"""

from __future__ import annotations

import json
from typing import Any

from cluster.tools.chat.openai_stream import DONE, SseParser

#: Longest part (characters) of somebody's words that is kept with an error.
_WORDS = 200


class AnswerError(Exception):
    """An answer that does not count. ``kind`` is what errors are counted by."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind)
        self.kind, self.detail = kind, detail[:_WORDS]


class AnswerTimes:
    """The times are those of whatever clock feeds it, in seconds."""

    def __init__(self) -> None:
        self.moments: list[float] = []
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self._finished: str | None = None
        self._done = False
        self._sse = SseParser()

    def feed(self, data: bytes, now: float) -> None:
        """A piece of an event stream that came at ``now``. Raises Failure."""
        for event in self._sse.feed(data):
            self._event(event, now)

    def whole(self, data: bytes) -> None:
        """An answer that was not streamed. Raises Failure."""
        body = _object(data)
        _refuse_error(body)
        self._usage(body)
        for choice in _choices(body):
            self._finished = choice.get("finish_reason") or self._finished
        if self._finished is None:
            raise AnswerError("no answer", "neither a choice nor an error")
        self._require_end()

    def end(self, now: float) -> None:
        """The stream has ended. Raises Failure where it ended early."""
        self.feed(b"\n\n", now)  # some leave out the blank line after the last event
        if not self.moments:
            raise AnswerError("no token", "the stream ended without one")
        if not self._done and self._finished is None:
            raise AnswerError("broken off", "the stream ended without [DONE] and without a finish_reason")
        self._require_end()

    @property
    def tokens(self) -> int:
        """Tokens of the answer: as the server says, or its events where it does not."""
        return len(self.moments) if self.completion_tokens is None else self.completion_tokens

    def _event(self, event: str, now: float) -> None:
        if not (data := event.strip()):
            return
        if data == DONE:
            self._done = True
            return
        body = _object(data)
        _refuse_error(body)
        self._usage(body)
        if choices := _choices(body):
            self.moments.append(now)
            self._finished = choices[0].get("finish_reason") or self._finished

    def _usage(self, body: dict[str, Any]) -> None:
        usage = body.get("usage")
        if isinstance(usage, dict):
            prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
            self.prompt_tokens = prompt if isinstance(prompt, int) else self.prompt_tokens
            self.completion_tokens = completion if isinstance(completion, int) else self.completion_tokens

    def _require_end(self) -> None:
        if self._finished == "abort":
            raise AnswerError("aborted", "the engine ended it early (finish_reason abort)")


def _object(data: str | bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise AnswerError("no JSON", data if isinstance(data, str) else data.decode(errors="replace"))
    return body


def _choices(body: dict[str, Any]) -> list[dict[str, Any]]:
    choices = body.get("choices")
    return [c for c in choices if isinstance(c, dict)] if isinstance(choices, list) else []


def _refuse_error(body: dict[str, Any]) -> None:
    if error := body.get("error"):
        raise AnswerError("error in the answer", error_text(error))


def error_text(error: object) -> str:
    """What an error object of the API says."""
    return str(error.get("message") if isinstance(error, dict) else error)
