"""The latest events of a stream, read once it is broken. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from lb.forwarding.resume.point import Piece


def pieces(chunks: Sequence[bytes]) -> list[Piece]:
    """What each of them added."""
    return [
        Piece(tuple(choice["token_ids"]), choice.get("text") or (choice.get("delta") or {}).get("content") or "")
        for choice in _choices(chunks) if choice.get("token_ids")
    ]  # fmt: skip


def offsets(chunks: Sequence[bytes], base: int) -> tuple[list[int], int]:
    """Where each of their tokens stands in the text, and where that ends, in characters as log probabilities of
    completions count them; their own count begins at ``base``."""
    found: list[int] = []
    end = base
    for choice in _choices(chunks):
        logprobs = choice.get("logprobs")
        if logprobs and logprobs.get("text_offset"):
            found += [offset + base for offset in logprobs["text_offset"]]
            end = found[-1] + len(logprobs["tokens"][-1])
    return found, end


def _choices(chunks: Sequence[bytes]) -> Iterator[dict[str, Any]]:
    for line in b"".join(chunks).split(b"\n"):
        if line.startswith(b"data: {"):
            try:
                yield from json.loads(line[6:]).get("choices", ())[:1]
            except ValueError:
                continue  # the end of one that began before what is kept
