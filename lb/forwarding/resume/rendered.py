"""What a worker says of a generation without making it: vLLM's answer to ``…/render`` (`--enable-scale-out`). Pure.

A request says how it is to be answered, but not all of it: limits and temperature may come from the model's
``generation_config.json`` or from the engine's flags, and a parser of the engine's may have special tokens shown to it
that the request does not ask for. The engine knows all that, and says it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lb.forwarding.resume.obstacles import READ_BY_PARSER

#: What `SamplingParams` leaves out where it is so.
_DEFAULTS = {"max_tokens": 16, "temperature": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
_SHOWN = ("skip_special_tokens", "spaces_between_special_tokens")

#: From here on an answer is read: before it stand the tokens of the prompt, of which there may be many.
_BEGINS = b'"sampling_params":'


@dataclass(frozen=True, slots=True)
class Rendered:
    """``fields``: of the request, as the engine will have them. ``obstacle``: why the answer is more than its tokens,
    empty if it is not."""

    fields: dict[str, Any]
    obstacle: str


def read(answer: bytes, requested: Mapping[str, Any], *, chat: bool) -> Rendered | None:
    """Of the body of an answer 200 for what was ``requested``, with fields as the engine takes them; None if it is
    something else."""
    at = answer.find(_BEGINS)
    try:
        found = json.loads(b"{" + answer[at:].rstrip(b"] \n")) if at >= 0 else None
        sampling = found["sampling_params"] if found else None
    except (ValueError, KeyError):
        return None
    if not isinstance(found, dict) or not isinstance(sampling, dict):
        return None
    fields = {name: sampling.get(name, default) for name, default in _DEFAULTS.items()}
    if not chat:
        return Rendered(fields, "")
    return Rendered({**fields, "max_completion_tokens": None}, _obstacle(found, sampling, requested))


def _obstacle(found: Mapping[str, Any], sampling: Mapping[str, Any], requested: Mapping[str, Any]) -> str:
    if sampling.get("structured_outputs"):
        return "its output is guided"
    # Once the reasoning has ended in the prompt its parser leaves the answer alone.
    if found.get("reasoning_parser_kwargs") is not None and found.get("reasoning_ended") is not True:
        return READ_BY_PARSER
    if any(sampling.get(name, True) != requested.get(name, True) for name in _SHOWN):
        return READ_BY_PARSER
    return ""
