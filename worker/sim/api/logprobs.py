"""Log probabilities of the right shape; the numbers mean nothing. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from worker.sim.engine.tokens import VOCAB_SIZE, piece


def _text(token: int, as_id: bool) -> str:
    return f"token_id:{token}" if as_id else piece(token, special=True).decode("utf-8", "replace")


def _alternatives(token: int, count: int) -> list[int]:
    """``count`` ids in the order of the ranking, the sampled one first, all with different texts."""
    ranked = [token]
    other = 300
    while len(ranked) < count:
        if other != token:
            ranked.append(other)
        other = 258 + (other - 257) % (VOCAB_SIZE - 258)
    return ranked


def _value(rank: int) -> float:
    return -0.5 - 0.25 * rank


def completion(ids: Sequence[int], count: int, offset: int, as_ids: bool, *, blank: bool = False) -> dict[str, Any]:
    """The ``logprobs`` of a completion choice; ``blank``: the first token is a prompt's and has none."""
    offsets, texts, values, tops = [], [], [], []
    for position, token in enumerate(ids):
        text = _text(token, as_ids)
        none = blank and position == 0
        ranked = _alternatives(token, max(1, count))
        offsets.append(offset)
        texts.append(text)
        values.append(None if none else _value(0))
        tops.append(None if none else {_text(t, as_ids): _value(r) for r, t in enumerate(ranked)})
        offset += len(text)
    return {"text_offset": offsets, "token_logprobs": values, "tokens": texts, "top_logprobs": tops}


def chat(ids: Iterable[int], count: int, as_ids: bool) -> dict[str, Any]:
    """The ``logprobs`` of a chat choice with ``count`` alternatives a token."""
    content = []
    for token in ids:
        top = [_entry(other, rank, as_ids) for rank, other in enumerate(_alternatives(token, max(1, count)))]
        content.append({**_entry(token, 0, as_ids), "top_logprobs": top[:count] if count >= 0 else top})
    return {"content": content}


def _entry(token: int, rank: int, as_id: bool) -> dict[str, Any]:
    text = _text(token, as_id)
    return {"token": text, "logprob": _value(rank), "bytes": list(text.encode())}


def prompt(ids: Sequence[int], count: int | None) -> list[dict[str, Any] | None] | None:
    """``prompt_logprobs``: nothing for the first token, then a ranking for each."""
    if count is None:
        return None
    made: list[dict[str, Any] | None] = [None]
    for token in ids[1:]:
        # The prompt's own token, and the most probable ones before it.
        ranked = [token, *(other for other in _alternatives(300, count) if other != token)]
        made.append(
            {
                str(other): {"logprob": _value(rank), "rank": rank + 1, "decoded_token": _text(other, False)}
                for rank, other in enumerate(ranked)
            }
        )
    return made
