"""A streamed answer, from bytes to pieces of text. Pure.

Bytes come cut anywhere: within a line, between CR and LF, within a character, and (from servers that cut by UTF-16)
between the halves of one.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

DONE = "[DONE]"


class BadStream(Exception):
    """What came is no stream of an OpenAI-compatible server, or says that it failed. ``status``: the server's code for
    that, where it gives one."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Delta:
    """What one event adds. ``tokens``: (of the prompt, of the answer), in the event that tells the usage."""

    text: str = ""
    reasoning: str = ""
    finish: str | None = None
    tokens: tuple[int, int] | None = None


class SseParser:
    """Server-sent events as the standard has them: ``data`` of several lines, comments, any line ending, a BOM."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("replace")
        self._rest = ""
        self._data: list[str] = []

    def feed(self, data: bytes) -> Iterator[str]:
        """The data of each event that is whole now."""
        text = self._rest + self._decoder.decode(data)
        held = "\r" if text.endswith("\r") else ""  # may be half of a CRLF
        text = text.removesuffix("\r").replace("\r\n", "\n").replace("\r", "\n")
        *lines, rest = text.split("\n")
        self._rest = rest + held
        for line in lines:
            if line:
                name, _, value = line.partition(":")
                if name == "data":
                    self._data.append(value.removeprefix(" "))
            elif self._data:
                event, self._data = "\n".join(self._data), []
                yield event


def piece(event: str) -> Delta:
    """What an event of a chat or completion stream says of its first choice. Raises BadStream."""
    try:
        data = json.loads(event)
    except ValueError:
        raise BadStream("the answer is not a stream of JSON events") from None
    if not isinstance(data, dict):
        raise BadStream("the answer is not a stream of an OpenAI-compatible server")
    if data.get("error"):
        raise BadStream(*error_of(data, "the stream ended in an error"))
    try:
        usage, choices = data.get("usage"), data.get("choices") or [{}]
        tokens = (int(usage["prompt_tokens"]), int(usage.get("completion_tokens") or 0)) if usage else None
        choice = choices[0]
        delta = choice.get("delta") or {}
        text = delta.get("content") or choice.get("text") or ""
        reasoning = delta.get("reasoning") or delta.get("reasoning_content") or ""
        return Delta(str(text), str(reasoning), choice.get("finish_reason"), tokens)
    except (LookupError, TypeError, ValueError, AttributeError):
        raise BadStream("the answer is not a stream of an OpenAI-compatible server") from None


def error_of(data: Any, otherwise: str) -> tuple[str, int | None]:
    """The sentence and the code of an error object, as OpenAI, vLLM and web frameworks write it."""
    error = data.get("error", data.get("detail")) if isinstance(data, dict) else None
    if isinstance(error, dict):
        code = error.get("code")
        return str(error.get("message") or otherwise), code if isinstance(code, int) else None
    return (error if isinstance(error, str) and error else otherwise), None


class Halves:
    """Joins characters that were cut into two surrogates; what never finds its other half becomes U+FFFD."""

    def __init__(self) -> None:
        self._held = ""

    def join(self, text: str, last: bool = False) -> str:
        text, self._held = self._held + text, ""
        if not last and text and "\ud800" <= text[-1] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class AnswerReader:
    """One answer while it comes. ``now``: monotonic seconds."""

    def __init__(self, began: float) -> None:
        self.began = began
        self.first = self.last = 0.0
        self.finish: str | None = None
        self.tokens: int | None = None
        self._sse, self._text, self._reasoning = SseParser(), Halves(), Halves()
        self._pieces, self._done = 0, False

    def feed(self, data: bytes, now: float) -> Iterator[Delta]:
        """What these bytes add. Raises BadStream."""
        for event in self._sse.feed(data):
            if event == DONE:
                self._done = True
                continue
            found = piece(event)
            if found.tokens is not None:
                self.tokens = found.tokens[1]
            self.finish = found.finish or self.finish
            if found.text or found.reasoning:
                self.first = self.first or now
                self.last = now
                self._pieces += 1
                text, reasoning = self._text.join(found.text), self._reasoning.join(found.reasoning)
                yield Delta(text, reasoning, found.finish, found.tokens)

    def end(self) -> str:
        """The connection has ended: text that was still held back. Raises BadStream if this was not the end of the
        answer."""
        if self.finish == "abort":
            raise BadStream("the worker gave the answer up")
        if not self._done and self.finish is None:
            raise BadStream("the answer broke off")
        return self._text.join("", last=True)

    def stats(self, now: float) -> Stats:
        """As of now, whether it has ended or not."""
        made = self._pieces if self.tokens is None else self.tokens
        return Stats(
            first=self.first - self.began if self.first else None, total=now - self.began, tokens=made,
            rate=(made - 1) / (self.last - self.first) if made > 1 and self.last > self.first else None,
            cut=self.finish == "length",
        )


@dataclass(frozen=True, slots=True)
class Stats:
    """``first``: s to the first token; ``total``: s to the end; ``rate``: tokens per s after the first; ``cut``: the
    limit of tokens was reached."""

    first: float | None
    total: float
    tokens: int
    rate: float | None
    cut: bool

    def words(self) -> str:
        if self.first is None:
            return f"no token in {seconds(self.total)}"
        parts = [f"first token {seconds(self.first)}", f"{self.tokens} tokens in {seconds(self.total)}"]
        if self.rate is not None:
            parts.append(f"{self.rate:.1f} tokens/s")
        if self.cut:
            parts.append("cut off at the limit of tokens")
        return " · ".join(parts)


def seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.1f} s"
