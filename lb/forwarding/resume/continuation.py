"""The request that goes on with a stream, and its answer made to look like the rest of the first one. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lb.forwarding.resume.point import CannotResume, ResumePoint

PATH = b"/v1/completions"

#: What a completion takes of a chat request as it is. Everything else of it is in the prompt's tokens already.
_OF_CHAT = (
    "model", "frequency_penalty", "logit_bias", "presence_penalty", "seed", "stop", "stream", "stream_options",
    "temperature", "top_p", "user", "top_k", "min_p", "repetition_penalty", "watermarking", "length_penalty",
    "stop_token_ids", "include_stop_str_in_output", "ignore_eos", "min_tokens", "skip_special_tokens",
    "spaces_between_special_tokens", "logprob_token_ids", "allowed_token_ids", "bad_words", "priority", "session_id",
    "cache_salt", "vllm_xargs", "repetition_detection", "thinking_token_budget", "stream_interval",
)  # fmt: skip

#: What is about the prompt, which is tokens now, or about the first answer.
_DONE_WITH = (
    "prompt", "echo", "truncate_prompt_tokens", "truncation_side", "add_special_tokens", "prompt_logprobs", "suffix",
    "request_id", "n", "best_of", "return_tokens",
)  # fmt: skip

#: vLLM's `CompletionRequest.max_tokens` where none is asked for, or null.
_COMPLETION_TOKENS = 16


def request(
    requested: dict[str, Any], chat: bool, prompt: Sequence[int], made: Sequence[int], longest: int | None
) -> dict[str, Any]:
    """The body for `PATH` that goes on, after the tokens ``made``, with what was ``requested`` (fields as the engine
    takes them, `lax.request`). ``longest``: of prompt and answer together, in tokens, where it is known. Raises
    CannotResume."""
    if chat:
        body = {key: requested[key] for key in _OF_CHAT if key in requested}
        if requested.get("logprobs"):
            body["logprobs"] = requested.get("top_logprobs") or 0
    else:
        body = {key: value for key, value in requested.items() if key not in _DONE_WITH}
    left = left_to_make(requested, chat, len(prompt), len(made), longest)
    if left is None:
        raise CannotResume("how long its answer may get is not known")
    if requested.get("min_tokens") is not None:
        body["min_tokens"] = max(0, requested["min_tokens"] - len(made))
    return {**body, "prompt": [*prompt, *made], "max_tokens": left, "stream": True, "return_token_ids": True}


def left_to_make(requested: dict[str, Any], chat: bool, prompt: int, made: int, longest: int | None) -> int | None:
    """Tokens that may still come; None if nobody knows."""
    limit = requested.get("max_tokens")
    if chat and requested.get("max_completion_tokens") is not None:
        limit = requested["max_completion_tokens"]
    elif not chat and limit is None:
        limit = _COMPLETION_TOKENS
    room = None if longest is None else longest - prompt
    limits = [value for value in (limit, room) if value is not None]
    return max(0, min(limits) - made) if limits else None


@dataclass(slots=True)
class Dresser:
    """Turns the events of a continuation into the next ones of the first stream. ``first``: its first event, for what
    all events carry; ``point``: where it goes on; ``seen``: tokens that were made before, of which those after
    ``point.kept`` are not shown again. ``offset``: of the first token after ``point.kept`` in the text, in characters
    (``logprobs`` of completions); ``alternatives``: to each token, in a chat's, None for all that come, and ``least``
    so many have to."""

    chat: bool
    first: dict[str, Any]
    point: ResumePoint
    prompt: int
    seen: int
    shows_ids: bool
    offset: int = 0
    alternatives: int | None = None
    least: int = 0
    _repeated: str = field(init=False, default="")
    _held: str = field(init=False, default="")
    _hidden: int = field(init=False, default=0)
    _tokens: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._repeated, self._held = self.point.repeated, self.point.held
        self._hidden = self.seen - self.point.kept

    @property
    def said_held(self) -> bool:
        """What had been held back has gone out."""
        return bool(self.point.held) and not self._held

    def dress(self, event: dict[str, Any]) -> dict[str, Any] | None:
        """None for an event of which nothing is new. Raises CannotResume if what had to come again did not."""
        out = dict(self.first)
        if event.get("choices"):
            choice = event["choices"][0]
            made = self._choice(choice)
            if made is None:
                return None
            out["choices"] = [made]
        else:
            out["choices"] = []
        if isinstance(event.get("usage"), dict):
            out["usage"] = self._usage(event["usage"])
            if self.chat and out["choices"]:
                out["usage"].setdefault("completion_tokens_details", None)  # as vLLM writes it in a chat
        if "system_fingerprint" in event:
            out["system_fingerprint"] = event["system_fingerprint"]
        return out

    def _choice(self, choice: dict[str, Any]) -> dict[str, Any] | None:
        ids = choice.get("token_ids") or []
        hidden = min(self._hidden, len(ids))
        self._hidden -= hidden
        self._tokens += len(ids)
        text = self._text(choice.get("text") or "", choice.get("finish_reason"))
        reason = choice.get("finish_reason")
        if not text and len(ids) == hidden and reason is None:
            return None
        logprobs = self._logprobs(choice.get("logprobs"), ids, hidden)
        shown = ids[hidden:] if self.shows_ids else None
        if not self.chat:
            return {
                "index": 0, "text": text, "logprobs": logprobs, "finish_reason": reason,
                "stop_reason": choice.get("stop_reason"), "prompt_token_ids": None, "token_ids": shown,
            }  # fmt: skip
        stop = {"stop_reason": choice.get("stop_reason")} if reason is not None else {}
        return {
            "index": 0, "delta": {"content": text}, "logprobs": logprobs, "finish_reason": reason, **stop,
            "token_ids": shown,
        }  # fmt: skip

    def _text(self, text: str, reason: str | None) -> str:
        """Without what was sent before, with what was held back."""
        if self._repeated:
            size = min(len(self._repeated), len(text))
            if self._repeated[:size] != text[:size]:
                raise CannotResume("another worker did not make the same text again")
            self._repeated, text = self._repeated[size:], text[size:]
            if self._repeated and reason is not None:
                raise CannotResume("another worker did not make the same text again")
        if self._held:
            text, self._held = self._held + text, ""
        return text

    def _logprobs(self, found: dict[str, Any] | None, ids: Sequence[int], hidden: int) -> dict[str, Any] | None:
        if found is None:
            return None
        if self.chat:
            return {"content": [self._entry(found, at, ids[at]) for at in range(hidden, len(found["tokens"]))]}
        made = {key: values[hidden:] for key, values in found.items()}
        made["text_offset"] = [offset + self.offset for offset in made["text_offset"]]
        return made

    def _entry(self, found: dict[str, Any], at: int, token_id: int) -> dict[str, Any]:
        """One token's log probabilities as a chat shows them, out of a completion's, which has one alternative more,
        by what they read."""
        token, top = found["tokens"][at], list((found["top_logprobs"][at] or {}).items())
        if token == f"token_id:{token_id}":
            raise CannotResume("its log probabilities name tokens by id")
        if len(top) < self.least:
            raise CannotResume("two tokens in its log probabilities read the same")
        shown = [_one(*pair) for pair in top[: self.alternatives]]
        return {**_one(token, found["token_logprobs"][at]), "top_logprobs": shown}

    def _usage(self, usage: dict[str, Any]) -> dict[str, Any]:
        completion = self.point.kept + int(usage.get("completion_tokens") or 0)
        made = {**usage, "prompt_tokens": self.prompt, "total_tokens": self.prompt + completion}
        made["completion_tokens"] = completion
        details = made.get("prompt_tokens_details")
        if isinstance(details, dict) and isinstance(details.get("cached_tokens"), int):
            made["prompt_tokens_details"] = {**details, "cached_tokens": min(details["cached_tokens"], self.prompt)}
        return made


def _one(token: str, logprob: float | None) -> dict[str, Any]:
    return {"token": token, "logprob": logprob, "bytes": list(token.encode("utf-8", "replace"))}
