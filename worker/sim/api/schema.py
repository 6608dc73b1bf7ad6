"""The fields of generation requests and how each is checked, in vLLM's order: the first problem is named. Pure.

Each entry is (check, may be null).
"""

from __future__ import annotations

from typing import Any

from pydantic_core import core_schema

from worker.sim.api.fields import (
    Check,
    Problems,
    boolean,
    integer,
    list_of,
    mapping,
    number,
    string,
    typed,
)
from worker.sim.api.messages import check_messages

_MAX_STOP_STRINGS = 4
_INT64 = 2**63


def _stop(value: Any, loc: str, problems: Problems) -> Any:
    if isinstance(value, str):
        return [value]
    string(value, loc, problems)
    found = Problems()
    made = list_of(string)(value, loc, found)
    if not found and len(made) > _MAX_STOP_STRINGS:
        text = f"List should have at most {_MAX_STOP_STRINGS} items after validation, not {len(made)}"
        found.note("too_long", loc, text, value)
    if not found:
        del problems[-1]
    problems.extend(found)
    return made


def _stream_options(value: Any, loc: str, problems: Problems) -> Any:
    if not isinstance(value, dict):
        text = "Input should be a valid dictionary or instance of StreamOptions"
        return problems.note("model_type", loc, text, value)
    return {
        name: None if value.get(name) is None else boolean(value[name], f"{loc}.{name}", problems)
        for name in ("include_usage", "continuous_usage_stats")
    }


def _effort(value: Any, loc: str, problems: Problems) -> Any:
    allowed = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
    if value not in allowed:
        problems.note("literal_error", loc, f"Input should be one of {allowed}", value)
    return value


def _response_format(value: Any, loc: str, problems: Problems) -> Any:
    if not isinstance(value, dict):
        return mapping(value, loc, problems)
    if value.get("type") not in ("text", "json_object", "json_schema", "structural_tag"):
        text = "Input should be 'text', 'json_object' or 'json_schema'"
        problems.note("literal_error", f"{loc}.type", text, value.get("type"))
    return value


def _prompt(value: Any, loc: str, problems: Problems) -> Any:
    """Ids, lists of ids, text or texts: the first form that fits, else the errors of all four."""
    found = Problems()
    forms: tuple[Check, ...] = (
        list_of(integer, least=0),
        list_of(list_of(integer, least=0)),
        string,
        list_of(string),
    )
    for check in forms:
        before = len(found)
        made = check(value, loc, found)
        if len(found) == before:
            return made
    problems.extend(found)
    return None


_SHARED: dict[str, tuple[Check, bool]] = {
    "presence_penalty": (number, True),
    "seed": (typed(core_schema.int_schema(ge=-_INT64, le=_INT64 - 1)), True),
    "stop": (_stop, True),
    "stream": (boolean, True),
    "stream_options": (_stream_options, True),
    "suffix": (string, True),
    "temperature": (number, True),
    "top_p": (number, True),
    "user": (string, True),
    "use_beam_search": (boolean, False),
    "top_k": (integer, True),
    "min_p": (number, True),
    "repetition_penalty": (number, True),
    "stop_token_ids": (list_of(integer), True),
    "include_stop_str_in_output": (boolean, False),
    "ignore_eos": (boolean, False),
    "min_tokens": (integer, False),
    "skip_special_tokens": (boolean, False),
    "truncate_prompt_tokens": (integer, True),
    "prompt_logprobs": (integer, True),
    "allowed_token_ids": (list_of(integer), True),
    "bad_words": (list_of(string), False),
    "add_special_tokens": (boolean, False),
    "response_format": (_response_format, True),
    "priority": (integer, False),
    "request_id": (string, False),
    "return_tokens_as_token_ids": (boolean, True),
    "return_token_ids": (boolean, True),
}
COMPLETION: dict[str, tuple[Check, bool]] = {
    "model": (string, True),
    "prompt": (_prompt, True),
    "echo": (boolean, True),
    "frequency_penalty": (number, True),
    "logit_bias": (mapping, True),
    "logprobs": (integer, True),
    "max_tokens": (integer, True),
    "n": (integer, False),
    **_SHARED,
}
CHAT: dict[str, tuple[Check, bool]] = {
    "messages": (check_messages, False),
    "model": (string, True),
    "frequency_penalty": (number, True),
    "logit_bias": (mapping, True),
    "logprobs": (boolean, True),
    "top_logprobs": (integer, True),
    "max_tokens": (integer, True),
    "max_completion_tokens": (integer, True),
    "n": (integer, True),
    **_SHARED,
    "reasoning_effort": (_effort, True),
    "echo": (boolean, False),
    "add_generation_prompt": (boolean, False),
    "continue_final_message": (boolean, False),
    "return_prompt_text": (boolean, True),
}
