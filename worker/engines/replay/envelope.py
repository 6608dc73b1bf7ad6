"""What asks for an answer once more, taken apart and checked before anything of it reaches an engine. Pure.

An id outside the vocabulary ends vLLM's engine and every request in it, so none gets there.
"""

from __future__ import annotations

import json

from config import replay

Tokens = list[list[int]]


class BadEnvelope(ValueError):
    """It cannot be made again like this: status 400."""


def opened(body: bytes, vocabulary: int, length: int) -> tuple[Tokens, bytes]:
    """The tokens of each choice and the client's own body. ``vocabulary``: how many tokens there are; ``length``: of
    the longest prompt with its answer. Raises BadEnvelope."""
    try:
        tokens, sent = replay.read(body)
    except (ValueError, RecursionError):
        raise BadEnvelope("the first line has to be a list with a list of token ids for each choice") from None
    for some in tokens:
        if len(some) > length:
            raise BadEnvelope(f"{len(some)} tokens to begin with are more than the {length} of the model's context")
        if some and max(some) >= vocabulary:
            raise BadEnvelope(f"token {max(some)} is out of the vocabulary of {vocabulary}")
    return tokens, sent


def check_choices(tokens: Tokens, choices: int) -> None:
    """Raises BadEnvelope where ``tokens`` are of more choices than the answer has."""
    if len(tokens) > choices:
        raise BadEnvelope(f"tokens of {len(tokens)} choices for an answer with {choices}")


def refusal(reason: str) -> bytes:
    """The answer, in the shape of vLLM's own errors."""
    error = {"message": reason, "type": "BadRequestError", "param": None, "code": 400}
    return json.dumps({"error": error}).encode()


def choices(sent: bytes) -> int:
    """How many choices the answer to a client's body has, as far as it says; what cannot be read is left to who
    answers it."""
    try:
        body = json.loads(sent)
        count, prompts = int(body.get("n") or 1), body.get("prompt")
    except (ValueError, RecursionError, AttributeError, TypeError, OverflowError):
        return 1
    several = isinstance(prompts, list) and bool(prompts) and isinstance(prompts[0], str | list)
    return count * (len(prompts) if several else 1)
