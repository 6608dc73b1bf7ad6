"""Why a stream cannot be continued on another worker: in a few words each, empty for none. Pure.

What is continued are token ids, so everything that depends on more than the tokens before it (a grammar, a parser of
tool calls, several choices) cannot be. `docs/decisions/0013` has the why.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lb.forwarding.resume import events
from lb.protocol.fields import lax

NOT_UNDERSTOOD = "its request is not understood"

_GUIDED = frozenset({"structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar"})
_TRANSFERS = ("kv_transfer_params", "ec_transfer_params")

READ_BY_PARSER = "its answer is read by a parser of its worker's"
_TOOLS, _REASONING = "it calls tools", "its answer is read by a reasoning parser"

#: By what stands in the delta of a chat.
_MORE = {"tool_calls": _TOOLS, "function_call": _TOOLS, "reasoning": _REASONING, "reasoning_content": _REASONING}


def of_request(data: dict[str, Any], chat: bool) -> str:
    """By what is asked for; ``data``: fields as the engine takes them."""
    if (data.get("n") or 1) != 1 or (data.get("best_of") or 1) != 1:
        return "it has several choices"
    if why := for_good(data):
        return why
    if any(data.get(key) is not None for key in _GUIDED):
        return "its output is guided"
    form = data.get("response_format")
    if form is not None and not (isinstance(form, dict) and form.get("type") == "text"):
        return "its output has to have a format"
    return _chat_obstacle(data) if chat else _completion_obstacle(data)


def for_good(data: dict[str, Any]) -> str:
    """Of what is asked for, that which no worker makes again."""
    if data.get("use_beam_search"):
        return "it is a beam search"
    return "it moves a KV cache" if any(data.get(key) for key in _TRANSFERS) else ""


def _chat_obstacle(data: dict[str, Any]) -> str:
    if data.get("echo"):
        return "it repeats a message"
    if (data.get("tools") or data.get("functions")) and data.get("tool_choice") != "none":
        return "it may call tools"
    if data.get("include_reasoning") is False:
        return "its reasoning is hidden"
    if data.get("logprobs") and data.get("return_tokens_as_token_ids"):
        return "its log probabilities name tokens by id"
    messages = data.get("messages")
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        parts = content if isinstance(content, list) else ()
        if isinstance(content, dict) or any(not _is_text(part) for part in parts):
            return "its prompt is not text alone"
    return ""


def _is_text(part: object) -> bool:
    return isinstance(part, str) or (isinstance(part, dict) and part.get("type") in ("text", "refusal", "input_text"))


def _completion_obstacle(data: dict[str, Any]) -> str:
    if data.get("prompt_embeds") is not None:
        return "its prompt is not text"
    prompt = data.get("prompt")
    if data.get("echo") and not data.get("return_token_ids"):
        if not isinstance(prompt, str) or data.get("truncate_prompt_tokens") is not None:
            return "it repeats a prompt that is not plain text"
        if data.get("logprobs") is not None or data.get("max_tokens") == 0:
            return "it tells log probabilities of its prompt"
    elif data.get("echo") and data.get("logprobs") is not None:
        return "it tells log probabilities of its prompt"
    return "" if lax.prompts_in(prompt) == 1 else "it has several prompts"


def of_choices(choices: Iterable[dict[str, Any]]) -> str:
    """By what has come."""
    for choice in choices:
        more = {key for key, value in (choice.get("delta") or {}).items() if value} - {"role", "content"}
        if more:
            return _MORE.get(min(more), f"it has more than text: {min(more)}")
        if choice.get("token_ids") is None and says(choice):
            return "its worker does not tell the ids of tokens"
    return ""


def of_events(data: bytes) -> str:
    """By what has come in a chat without being looked at: several events, in chunks or not."""
    for event in events.not_text(data):
        try:
            found = of_choices((events.parse(event) or {}).get("choices", ()))
        except (ValueError, AttributeError, TypeError):
            return "its worker does not speak as vLLM does"
        if found:
            return found
    return ""


def says(choice: dict[str, Any]) -> bool:
    """Whether there is anything of the answer itself in it."""
    delta = choice.get("delta")
    if delta is None:
        return bool(choice.get("text") or choice.get("token_ids"))
    return bool(choice.get("token_ids")) or any(value for key, value in delta.items() if key != "role")


def is_greedy(requested: dict[str, Any]) -> bool:
    """vLLM raises a temperature that is small and not 0 to 0.01, which is a sample (`SamplingParams`)."""
    return requested.get("temperature") == 0


def is_to_be_exact(requested: dict[str, Any]) -> bool:
    """Whether the one sample that follows from a seed is wanted: another one, from the middle on, will not do."""
    return requested.get("seed") is not None and not is_greedy(requested)


def counts_tokens(requested: dict[str, Any]) -> bool:
    """Whether a sample is made by penalties for the tokens made."""
    return bool(requested.get("presence_penalty") or requested.get("frequency_penalty"))


def lasting(requested: dict[str, Any]) -> str:
    """Why what was made has a part in what follows that the next worker knows nothing of, as it gets those tokens in
    its prompt; empty if it has none. Asked for once a stream is broken: such a request is like any other till then."""
    if requested.get("bad_words"):
        return "a bad word may have begun in it"
    if requested.get("repetition_detection"):
        return "repetitions in it are looked for"
    if requested.get("thinking_token_budget") not in (None, -1):
        return "it has a budget for thinking"
    if set(requested.get("vllm_xargs") or ()) - {"session_id"}:
        return "it is made with arguments of an extension"
    if (requested.get("top_logprobs") or 0) < 0:
        return "it tells the log probabilities of all tokens"
    if is_greedy(requested) and counts_tokens(requested):
        return "its penalties count the tokens made"
    return ""
