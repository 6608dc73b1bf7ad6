"""What a client asks for whose stream is made again whole, should it break. Read then, not before. Pure."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from typing import Any

from lb.forwarding.resume import obstacles
from lb.forwarding.resume.follow.atoms import Grammar
from lb.forwarding.resume.follow.chat import ChatGrammar
from lb.forwarding.resume.follow.completions import CompletionGrammar
from lb.forwarding.resume.follow.messages import MessageGrammar
from lb.forwarding.resume.follow.responses import ResponseGrammar
from lb.protocol.fields import lax

CHAT, COMPLETIONS, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/responses"


@dataclass(frozen=True)
class FollowPlan:
    """``path``: of its API; ``body``: the client's. ``ids``: its worker was asked for the ids of tokens in its events,
    which are taken out of them. ``known``: its `fields`, where somebody has read them."""

    path: str
    body: bytes
    ids: bool = False
    known: dict[str, Any] | None = None

    @functools.cached_property
    def fields(self) -> dict[str, Any]:
        """As the engine takes them; none of what is not understood."""
        if self.known is not None:
            return self.known
        try:
            data = json.loads(self.body)
            if self.path in (CHAT, COMPLETIONS):
                data = lax.request(data, chat=self.path == CHAT)
        except (ValueError, RecursionError):
            return {}
        return data if isinstance(data, dict) else {}

    @functools.cached_property
    def is_repeatable(self) -> bool:
        """Whether who makes it again makes the same: no sample, or one that follows from a seed."""
        temperature, seed = self.fields.get("temperature"), self.fields.get("seed")
        try:
            return seed is not None or (temperature is not None and lax.as_float(temperature) == 0)
        except ValueError:
            return False

    @functools.cached_property
    def hindrance(self) -> str:
        """Why it cannot be made again at all; empty if it can."""
        if not self.fields:
            return obstacles.NOT_UNDERSTOOD
        return obstacles.for_good(self.fields)

    @functools.cached_property
    def may_be_silent(self) -> bool:
        """Whether a worker may say nothing for long while it makes tokens: a parser may keep a call until it is whole,
        and thoughts that nobody wants are not told."""
        fields = self.fields
        return bool(fields.get("tools") or fields.get("functions")) or fields.get("include_reasoning") is False

    @property
    def has_tokens_told(self) -> bool:
        """Whether it has the form of which tokens are told, by choices: of one prompt."""
        return self.path != COMPLETIONS or b'"prompt"' not in self.body or self._prompts() == 1

    def _prompts(self) -> int:
        return lax.prompts_in(self.fields.get("prompt"))

    def grammar(self) -> Grammar:
        """A new one."""
        if self.path == MESSAGES:
            return MessageGrammar()
        if self.path == RESPONSES:
            return ResponseGrammar()
        options = self.fields.get("stream_options")
        usage = isinstance(options, dict) and bool(options.get("include_usage"))
        if self.path == CHAT:
            return ChatGrammar(max(1, self.fields.get("n") or 1), usage)
        return CompletionGrammar(max(1, self.fields.get("n") or 1) * max(1, self._prompts()), usage)
