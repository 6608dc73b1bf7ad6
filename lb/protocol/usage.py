"""What an answer says of the tokens that it took, in any of the APIs. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

#: In JSON a quotation mark inside a string is escaped: this is a key, wherever it stands. No client's own text is an
#: object of it that comes after the answer's.
_KEY, _OBJECT = b'"usage"', re.compile(rb'"usage"\s*:\s*(?=\{)')

#: As vLLM writes it, which need not be parsed.
_PLAIN = re.compile(
    rb'"usage":\s?\{"prompt_tokens":\s?(\d{1,15}),\s?(?:"total_tokens":\s?\d+,\s?)?"completion_tokens":\s?(\d{1,15})'
    rb'(?:,\s?"total_tokens":\s?\d+)?(?:,\s?"prompt_tokens_details":\s?(?:null|\{"cached_tokens":\s?(\d{1,15})\}))?\}'
)

#: Bytes of it.
_MOST = 4096

_DECODE = json.JSONDecoder().raw_decode


class TokenUsage(NamedTuple):
    """Tokens. ``cached``: those of the ``prompt`` that had been read before."""

    prompt: int
    cached: int
    completion: int


def read_plain(answer: bytes) -> TokenUsage | None:
    """The same as `read`, where it is written in the usual way; None: that is to be asked."""
    found = _PLAIN.match(answer, max(0, answer.rfind(_KEY)))
    return None if found is None else TokenUsage(int(found[1]), int(found[3] or 0), int(found[2]))


def read(answer: bytes) -> TokenUsage | None:
    """Of a whole answer, or of a stream by its end: the last word counts. None where it says nothing."""
    at = answer.rfind(_KEY)
    while at >= 0:
        found = _OBJECT.match(answer, at)
        if found is not None:
            try:
                said, _ = _DECODE(answer[found.end() : found.end() + _MOST].decode(errors="replace"))
            except ValueError:
                return None
            return _of(said)
        at = answer.rfind(_KEY, 0, at)  # null, as in all events of a stream but the last
    return None


def _of(said: Mapping[str, Any]) -> TokenUsage:
    """OpenAI's names, those of its Responses API, and Anthropic's."""
    details = said.get("prompt_tokens_details") or said.get("input_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else said.get("cache_read_input_tokens")
    return TokenUsage(
        _count(said.get("prompt_tokens", said.get("input_tokens"))), _count(cached),
        _count(said.get("completion_tokens", said.get("output_tokens"))),
    )  # fmt: skip


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**53 else 0
