"""Requests in every spelling that the engine takes for the same: numbers and booleans as strings, each other, null."""

from __future__ import annotations

from typing import Any

BODY: dict[str, Any] = {"model": "demo", "stream": True, "max_tokens": 24, "temperature": 0, "ignore_eos": True}
TRUE: tuple[object, ...] = (1, 1.0, "1", "true", "TRUE", "t", "Yes", "y", "on")
FALSE: tuple[object, ...] = (0, 0.0, "0", "false", "F", "no", "N", "off")

_BOTH: list[dict[str, Any]] = [
    *({"stream": value} for value in TRUE),
    *({"n": value} for value in ("1", 1.0, True, " 1 ", "1.0")),
    *({"max_tokens": value} for value in ("20", 20.0, "2_0", " 20\n", "20.0", "+20", "020")),
    *({"temperature": value} for value in ("0", "0.0", False, 0.0, " 0 ", "-0", "0e5")),
    {"top_p": "1"}, {"top_p": True}, {"top_p": None}, {"top_k": -1}, {"top_k": "0"}, {"top_k": 4.0}, {"min_p": "0.0"},
    *({"presence_penalty": value} for value in ("0", "0.0", False, None)),
    {"frequency_penalty": "0"}, {"repetition_penalty": "1.0"}, {"repetition_penalty": None},
    {"seed": "7"}, {"seed": 7.0}, {"seed": None},
    *({"ignore_eos": False, "min_tokens": value} for value in ("22", 22.0, "2_2")),
    *({"ignore_eos": value} for value in TRUE[::3]),
    {"skip_special_tokens": "yes"}, {"skip_special_tokens": 1}, {"spaces_between_special_tokens": "on"},
    {"stop": None}, {"stop": []}, {"stop": "no text like this"}, {"stop": ["no text like this", "nor this"]},
    *({"stop": "e", "include_stop_str_in_output": value} for value in (*TRUE[::2], *FALSE[::2])),
    *({"stream_options": {"include_usage": value}} for value in (*TRUE[::2], *FALSE[::3], None)),
    {"stream_options": {"include_usage": "1", "continuous_usage_stats": "true"}}, {"stream_options": None},
    *({"return_token_ids": value} for value in (*TRUE[::2], *FALSE[::3], None)),
    {"use_beam_search": "false"}, {"use_beam_search": 0}, {"truncate_prompt_tokens": "3"},
    {"truncate_prompt_tokens": 3.0}, {"priority": "0"}, {"priority": 0.0}, {"prompt_logprobs": 0}, {"logit_bias": None},
    {"stop_token_ids": None}, {"stop_token_ids": ["7", 8.0]}, {"allowed_token_ids": None}, {"user": None},
    {"bad_words": []}, {"response_format": None}, {"response_format": {"type": "text"}}, {"add_special_tokens": "no"},
    {"logprobs": None}, {"logprobs": False}, {"logprobs": 1.0}, {"logprobs": True}, {"return_tokens_as_token_ids": "f"},
    {"vllm_xargs": None}, {"thinking_token_budget": -1}, {"repetition_detection": None}, {"stream_interval": "1"},
]  # fmt: skip
COMPLETIONS: list[dict[str, Any]] = [
    {"max_tokens": None}, {"max_tokens": None, "min_tokens": "9"}, {"logprobs": 2}, {"logprobs": 2.0}, {"logprobs": 0},
    *({"echo": value} for value in (*TRUE[::2], *FALSE[::3], None)),
    {"prompt": ["hello"]}, {"prompt": [72, 105]}, {"prompt": [72.0, "105"]}, {"prompt": [[72, "105"]]},
    {"logprobs": 1, "return_tokens_as_token_ids": "yes"}, {"suffix": None},
]  # fmt: skip
CHATS: list[dict[str, Any]] = [
    *({"max_completion_tokens": value} for value in ("20", 20.0, None, " 2_0 ")), {"n": None},
    {"max_tokens": None, "max_completion_tokens": "17"},
    *({"logprobs": value} for value in (*TRUE[::2], *FALSE[::3])),
    *({"logprobs": "true", "top_logprobs": value} for value in (2, 2.0, True, None, 0)),
    {"include_reasoning": "true"}, {"add_generation_prompt": 1}, {"continue_final_message": "off"},
    {"parallel_tool_calls": "yes"}, {"echo": "false"}, {"echo": 0}, {"return_prompt_text": "no"}, {"tools": None},
]  # fmt: skip


def requests() -> list[dict[str, Any]]:
    """All of them, each with a prompt or messages."""
    return [*map(_completion, [*_BOTH, *COMPLETIONS]), *map(_chat, [*_BOTH, *CHATS])]


def _completion(extra: dict[str, Any]) -> dict[str, Any]:
    return {**BODY, "prompt": "hello", **extra}


def _chat(extra: dict[str, Any]) -> dict[str, Any]:
    return {**BODY, "messages": [{"role": "user", "content": "hello"}], **extra}


def label(body: dict[str, Any]) -> str:
    """What is special in it, for the name of a test."""
    kind = "chat" if "messages" in body else "completion"
    plain = {**BODY, "prompt": "hello", "messages": body.get("messages")}
    special = [f"{key}={value!r}" for key, value in body.items() if plain.get(key, plain) is not value]
    return "-".join([kind, *special]).replace("\n", "_")


def few() -> list[dict[str, Any]]:
    """One of each kind of value of each field, in a chat or in a completion, for an engine that takes its time."""
    found: dict[tuple[object, ...], dict[str, Any]] = {}
    either = [(_chat if number % 2 else _completion)(extra) for number, extra in enumerate(_BOTH)]
    for number, body in enumerate([*map(_completion, COMPLETIONS), *map(_chat, CHATS), *either]):
        given = body.keys() - {"prompt", "messages"}
        special = tuple((key, type(body[key])) for key in sorted(given) if BODY.get(key, BODY) is not body[key])
        # A vLLM on a CPU with adapters dies of `prompt_logprobs` beside other requests.
        if "prompt_logprobs" not in body:
            found.setdefault(special or (number,), body)
    return list(found.values())
