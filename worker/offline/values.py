"""What is asked of an offline engine and what it answers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from config.errors import nearest

#: A message of a chat, as the API has it: ``{"role": "user", "content": "…"}``.
Message = Mapping[str, Any]
#: A text to go on with, or the messages of a chat.
Prompt = str | Sequence[Message]


class OfflineError(Exception):
    """The engine did not start, or is gone."""


class RequestRefused(ValueError):
    """What was asked cannot be answered; the text says why."""


class UnknownExpert(RequestRefused):
    """There is no expert of that name."""


@dataclass(frozen=True, slots=True)
class Expert:
    """An adapter. ``rank``: the highest in it; ``base_model``: what its files say it was trained on; ``unchecked``:
    what could not be checked of it, in sentences."""

    name: str
    rank: int
    base_model: str | None
    description: str
    path: str
    unchecked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StreamPiece:
    """What is new in a stream; with ``finish_reason`` (``stop`` or ``length``) it is the last. Text may lag behind its
    tokens where it could still become a stop string."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Generation:
    """A whole answer. ``expert``: who gave it, None for the base model; ``prompt_tokens``: how many the prompt was;
    ``logprobs``: for each token as vLLM gives them, where they were asked for."""

    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None
    prompt_tokens: int
    expert: str | None = None
    logprobs: Any = None


def chosen(name: str | None, experts: Sequence[str], base: Sequence[str]) -> str | None:
    """The expert that ``name`` means, None for the base model, which its own names mean as well. Raises UnknownExpert
    in the words of a cluster."""
    if name is None or name in base:
        return None
    if name not in experts:
        raise UnknownExpert(f"The model `{name[:200]}` does not exist.{nearest(name, [*base, *experts])}")
    return name


def one_each(expert: str | Sequence[str | None] | None, prompts: int) -> list[str | None]:
    """An expert for each of so many ``prompts``. Raises RequestRefused where there are more or fewer."""
    if expert is None or isinstance(expert, str):
        return [expert] * prompts
    if len(expert) != prompts:
        raise RequestRefused(f"{len(expert)} experts for {prompts} prompts: one for each is needed, or one for all")
    return list(expert)


def as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """A single text, or a single chat, is a list of one. Raises RequestRefused for what is neither."""
    given: list[Any] = [prompts] if isinstance(prompts, str) else list(prompts)
    if given and all(isinstance(one, Mapping) for one in given):
        return [given]
    for number, one in enumerate(given):
        if not isinstance(one, str) and not _is_chat(one):
            raise RequestRefused(f"prompt {number} is neither a text nor a list of messages")
    return given


def _is_chat(prompt: object) -> bool:
    return isinstance(prompt, Sequence) and bool(prompt) and all(isinstance(one, Mapping) for one in prompt)


#: Fields of a request that are arguments of a call here, or say of an answer what a call here does not give.
_ELSEWHERE = frozenset({"model", "prompt", "messages", "stream", "stream_options", "echo", "use_beam_search"})


def refuse_unknown(fields: Iterable[str], known: Iterable[str]) -> None:
    """Raises RequestRefused for the first of ``fields`` that is none of the ``known``, which the API would ignore, or
    that means nothing here."""
    may = set(known) - _ELSEWHERE
    for name in fields:
        if name not in may:
            raise RequestRefused(f"sampling has no {name!r}{nearest(name, may)}")
