"""One answer, read as it comes: when its tokens came, how many there were, and whether it came to its end. Pure.

What counts as a token's moment is what `vllm bench serve` counts (its lib/endpoint_request_func.py): each event that
has a choice, the one that only names the role too; the last event, which has only the usage, does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

#: Longest part (characters) of somebody's words that is kept with an error.
_WORDS = 200


class Failure(Exception):
    """An answer that does not count. ``kind`` is what errors are counted by."""

    def __init__(self, kind: str, detail: str = "") -> None:
        super().__init__(kind)
        self.kind, self.detail = kind, detail[:_WORDS]


class Answer:
    """The times are those of whatever clock feeds it, in seconds."""

    def __init__(self) -> None:
        self.moments: list[float] = []
        self.prompt_tokens: int | None = None
        self.completion_tokens: int | None = None
        self._finished: str | None = None
        self._done = False
        self._rest = b""

    def feed(self, data: bytes, now: float) -> None:
        """A piece of an event stream that came at ``now``. Raises Failure."""
        self._rest += data
        if b"\r" in self._rest:
            self._rest = self._rest.replace(b"\r\n", b"\n")
        *events, self._rest = self._rest.split(b"\n\n")
        for event in events:
            self._event(event, now)

    def whole(self, data: bytes) -> None:
        """An answer that was not streamed. Raises Failure."""
        body = _object(data)
        _refuse_error(body)
        self._usage(body)
        for choice in _choices(body):
            self._finished = choice.get("finish_reason") or self._finished
        if self._finished is None:
            raise Failure("no answer", "neither a choice nor an error")
        self._require_end()

    def end(self, now: float) -> None:
        """The stream has ended. Raises Failure where it ended early."""
        if self._rest.strip():
            self._event(self._rest, now)
        if not self.moments:
            raise Failure("no token", "the stream ended without one")
        if not self._done and self._finished is None:
            raise Failure("broken off", "the stream ended without [DONE] and without a finish_reason")
        self._require_end()

    @property
    def tokens(self) -> int:
        """Tokens of the answer: as the server says, or its events where it does not."""
        return len(self.moments) if self.completion_tokens is None else self.completion_tokens

    def _event(self, event: bytes, now: float) -> None:
        for data in _data(event):
            if data == b"[DONE]":
                self._done = True
                continue
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
            raise Failure("aborted", "the engine ended it early (finish_reason abort)")


def _data(event: bytes) -> Iterator[bytes]:
    """The data of one event; comments have none."""
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:")]
    if data := b"\n".join(lines).strip():
        yield data


def _object(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Failure("no JSON", data.decode(errors="replace"))
    return body


def _choices(body: dict[str, Any]) -> list[dict[str, Any]]:
    choices = body.get("choices")
    return [c for c in choices if isinstance(c, dict)] if isinstance(choices, list) else []


def _refuse_error(body: dict[str, Any]) -> None:
    if error := body.get("error"):
        raise Failure("error in the answer", error_text(error))


def error_text(error: object) -> str:
    """What an error object of the API says."""
    return str(error.get("message") if isinstance(error, dict) else error)
