"""Fields of a client's JSON as the engine takes them. Pure.

vLLM's request models are pydantic models in lax mode: ``"20"``, ``20.0`` and ``" 2_0 "`` are the integer 20, ``1``,
``"yes"`` and ``"On"`` are true. Whoever reads a field in another way has another request before him than the engine
has. The rules are pydantic's conversion table; tests hold them to pydantic, to the simulator and to vLLM's own
models. pydantic itself is not used: a balancer needs it nowhere else, and its start would have to wait for the import.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
_FALSE = frozenset({"0", "off", "f", "false", "n", "no"})

#: An integer in a string, without white space around it.
_INTEGER = re.compile(r"([+-]?[0-9]++(?:_[0-9]++)*+)(?:\.0+)?")

#: What pydantic-core takes off before it looks, whatever is between the zeros and stands behind them.
_ZEROS = re.compile(r"^\+?0[0_]*(?=[1-9-]|0(?:\.0+)?$)")

#: Unicode's white space: Python's own strip takes four control characters more.
_WHITE = "".join(char for char in map(chr, range(0x3001)) if char.isspace() and char not in "\x1c\x1d\x1e\x1f")

#: A float beyond these is refused where an integer is wanted.
_LEAST, _MOST = float(-(2**63)), float(2**63)


def as_bool(value: object) -> bool:
    """Raises ValueError for what the engine refuses."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and (word := value.lower()) in _TRUE | _FALSE:
        return word in _TRUE
    raise ValueError("no boolean")


def as_int(value: object) -> int:
    """Raises ValueError for what the engine refuses."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and _LEAST < value < _MOST and value.is_integer():
        return int(value)
    if isinstance(value, str) and (found := _INTEGER.fullmatch(_ZEROS.sub("", value.strip(_WHITE), 1))):
        return int(found[1])
    raise ValueError("no integer")


def as_float(value: object) -> float:
    """Raises ValueError for what the engine refuses."""
    if isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            raise ValueError("no number") from None
    if isinstance(value, str):
        bare = value.strip(_WHITE)
        if "_" in value:
            # pydantic-core takes them out wherever they stand singly inside: `1e_1` is a number there.
            if bare != value or "__" in value or "_" in (value[0], value[-1]):
                raise ValueError("no number")
            bare = value.replace("_", "")
        if bare.isascii():
            return float(bare)
    raise ValueError("no number")


def is_true(value: object) -> bool:
    """Whether the engine takes a field for true; not so if it is null or refused."""
    try:
        return value is not None and as_bool(value)
    except ValueError:
        return False


def exactly_int(value: object) -> int:
    """Of `ThinkingTokenBudget`, which alone is not lax."""
    if type(value) is not int:
        raise ValueError("no integer")
    return value


def _stream_options(value: object) -> object:
    """Of `StreamOptions`."""
    if not isinstance(value, dict):
        raise ValueError("no object")
    names = value.keys() & {"include_usage", "continuous_usage_stats"}
    return {**value, **{name: None if value[name] is None else as_bool(value[name]) for name in names}}


_As = Callable[[object], Any]
_BOTH: dict[str, _As] = {
    **dict.fromkeys((
        "echo", "stream", "use_beam_search", "include_stop_str_in_output", "ignore_eos", "skip_special_tokens",
        "spaces_between_special_tokens", "add_special_tokens", "return_tokens_as_token_ids", "return_token_ids",
        "watermarking", "return_mm_kwargs", "return_token_offsets",
    ), as_bool),
    **dict.fromkeys((
        "n", "max_tokens", "min_tokens", "seed", "top_k", "truncate_prompt_tokens", "prompt_logprobs", "priority",
        "stream_interval", "routed_experts_prompt_start",
    ), as_int),
    **dict.fromkeys((
        "frequency_penalty", "presence_penalty", "repetition_penalty", "temperature", "top_p", "min_p",
        "length_penalty",
    ), as_float),
    "stream_options": _stream_options, "thinking_token_budget": exactly_int,
}  # fmt: skip

#: How vLLM 0.32 takes the fields of `CompletionRequest` and of `ChatCompletionRequest` that are numbers or booleans.
COMPLETION: Mapping[str, _As] = {**_BOTH, "logprobs": as_int}
CHAT: Mapping[str, _As] = {
    **_BOTH,
    **dict.fromkeys(("max_completion_tokens", "top_logprobs"), as_int),
    **dict.fromkeys((
        "logprobs", "include_reasoning", "add_generation_prompt", "continue_final_message", "parallel_tool_calls",
        "return_prompt_text",
    ), as_bool),
}  # fmt: skip


def request(data: Mapping[str, Any], *, chat: bool) -> dict[str, Any]:
    """A generation request, what is in the table as the engine takes it, all else as it is; null stays null.
    Raises ValueError for what the engine refuses."""
    made = dict(data)
    for name, convert in (CHAT if chat else COMPLETION).items():
        if made.get(name) is not None:
            made[name] = convert(made[name])
    return made


def prompts_in(prompt: object) -> int:
    """How many prompts ``CompletionRequest.prompt`` is: a list of texts or of lists is several, any other list the ids
    of one."""
    if not isinstance(prompt, list) or not prompt:
        return 1
    several = all(isinstance(item, str) for item in prompt) or any(isinstance(item, list) for item in prompt)
    return len(prompt) if several else 1
