"""What vLLM refuses beyond wrong types: one function for each place in which it looks. Pure."""

from __future__ import annotations

from typing import Any

from worker.sim.api.guidance.guided import Parsers
from worker.sim.engine.tokens import MAX_CHARS_PER_TOKEN, VOCAB_SIZE
from worker.sim.errors import ApiError, invalid

_MAX_SEQUENCES = 16384
_MAX_LOGPROBS = 20
_MAX_PROMPTS = 1024
_CONTEXT = "This model's maximum context length is {} tokens. However, your prompt contains "


def before_completion(body: dict[str, Any]) -> None:
    """The checks vLLM makes on the raw body of a completion, in its order."""
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) > _MAX_PROMPTS and not isinstance(prompt[0], int):
        text = f"prompt list length {len(prompt)} exceeds the maximum allowed count of {_MAX_PROMPTS}. "
        limit = "To increase this limit, set the VLLM_MAX_COMPLETION_PROMPTS environment variable."
        raise invalid(text + limit, "prompt")
    if prompt is None or prompt == "":
        raise invalid("Either prompt or prompt_embeds must be provided and non-empty.", "prompt")
    _stream_options(body)
    _logprobs(body, "logprobs")
    _cache_salt(body)


def before_chat(body: dict[str, Any]) -> None:
    """The checks vLLM makes on the raw body of a chat completion, in its order."""
    if body.get("messages", ()) is None:
        raise ApiError("'NoneType' object is not iterable")
    if body.get("continue_final_message") and body.get("add_generation_prompt"):
        raise ApiError("Cannot set both `continue_final_message` and `add_generation_prompt` to True.")
    _tools(body)
    _logprobs(body, "top_logprobs")
    top = body.get("top_logprobs")
    if top and not body.get("logprobs"):
        raise invalid("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
    _stream_options(body)
    _cache_salt(body)


def _stream_options(body: dict[str, Any]) -> None:
    if body.get("stream_options") and not body.get("stream"):
        raise invalid("Stream options can only be defined when `stream=True`.", "stream_options")


def _cache_salt(body: dict[str, Any]) -> None:
    salt = body.get("cache_salt")
    if salt is not None and (not isinstance(salt, str) or not salt):
        raise invalid("Parameter 'cache_salt' must be a non-empty string if provided.", "cache_salt")


def _logprobs(body: dict[str, Any], field: str) -> None:
    for name in ("prompt_logprobs", field):
        value = body.get(name)
        if value is not None and not isinstance(value, int | float):
            raise invalid(f"`{name}` must be an integer.", name, value)
    prompt = body.get("prompt_logprobs")
    if prompt is not None and body.get("stream") and (prompt > 0 or prompt == -1):
        raise invalid("`prompt_logprobs` are not available when `stream=True`.", "prompt_logprobs")
    for name in ("prompt_logprobs", field):
        value = body.get(name)
        if value is not None and value < 0 and value != -1:
            raise invalid(f"`{name}` must be a positive value or -1.", name, value)


def _tools(body: dict[str, Any]) -> None:
    if body.get("tools") == []:
        text = "`tools` must not be an empty array. "
        raise invalid(text + "Either provide at least one tool or omit the field entirely.", "tools")
    choice = body.get("tool_choice", "auto" if body.get("tools") else "none")
    if choice in (None, "none"):
        return
    if not body.get("tools"):
        raise invalid("When using `tool_choice`, `tools` must be set.", "tool_choice")
    if choice not in ("auto", "required") and not isinstance(choice, dict):
        text = f'Invalid value for `tool_choice`: {choice}! Only named tools, "none", "auto" or "required" '
        raise invalid(text + "are supported.", "tool_choice")


def tool_parser(body: dict[str, Any], parsers: Parsers) -> None:
    """A worker without a tool parser refuses tools; this comes after the model is known."""
    choice = body.get("tool_choice", "auto" if body.get("tools") else "none")
    if choice in (None, "none") or (parsers.tools and (choice != "auto" or parsers.automatic)):
        return
    if choice == "auto":
        needs = "--enable-auto-tool-choice and --tool-call-parser to be set"
        raise ApiError(f'"auto" tool choice requires {needs}')
    name = f'function "{choice["function"]["name"]}"' if isinstance(choice, dict) else f'"{choice}"'
    raise ApiError(f"tool_choice={name} requires --tool-call-parser to be set")


def text_length(text: str, max_model_len: int, truncate: int | None) -> None:
    """Refuse a text that cannot fit, before it is tokenized."""
    most = max_model_len * MAX_CHARS_PER_TOKEN
    if truncate is None and len(text) > most:
        start = _CONTEXT.format(max_model_len)
        count = f"{len(text)} characters (more than {most} characters, which is the upper bound for "
        end = f"{max_model_len} input tokens). Please reduce the length of the input prompt."
        raise invalid(start + count + end, "input_text", len(text))


def token_length(count: int, max_model_len: int) -> None:
    """Refuse a prompt longer than the context."""
    if count > max_model_len:
        qualifier = "at least " if count == max_model_len + 1 else ""
        start = _CONTEXT.format(max_model_len)
        middle = f"{qualifier}{count} input tokens, which exceeds this limit even without any output tokens. "
        raise invalid(start + middle + "Please reduce the length of the input prompt.", "input_tokens", count)


def sampling(made: dict[str, Any], limit: int | None) -> None:
    """The ranges of the sampling parameters, apart from the lengths; ``limit`` in tokens."""
    bias = made.get("logit_bias") or {}
    wrong = [key for key in bias if not str(key).lstrip("-").isdigit()]
    if wrong:
        text = f"logit_bias contains key(s) that cannot be converted to integer token IDs: {wrong!r}"
        raise invalid(text, "logit_bias", wrong)
    count = made.get("n")
    if count is not None and count < 1:
        raise ApiError(f"n must be at least 1, got {count}.")
    if count is not None and count > _MAX_SEQUENCES:
        limit_text = "To increase this limit, set the VLLM_MAX_N_SEQUENCES environment variable."
        raise ApiError(f"n must be at most {_MAX_SEQUENCES}, got {count}. {limit_text}")
    _penalties(made)
    _temperature(made)
    if limit is not None:
        lengths(limit, 0)
    if made.get("min_tokens", 0) < 0:
        raise ApiError(f"min_tokens must be greater than or equal to 0, got {made['min_tokens']}.")
    if any(not stop for stop in made.get("stop") or ()):
        raise ApiError("stop cannot contain an empty string.")
    if any(not word for word in made.get("bad_words", ())):
        words = made["bad_words"]
        raise ApiError(f"bad_words cannot contain an empty string. Got bad_words={words}")
    if made.get("temperature") == 0 and (count or 1) > 1 and not made.get("use_beam_search"):
        raise ApiError(f"n must be 1 when using greedy sampling, got {count}.")


def _penalties(made: dict[str, Any]) -> None:
    for name in ("presence_penalty", "frequency_penalty"):
        value = made.get(name)
        if value is not None and not -2 <= value <= 2:
            raise ApiError(f"{name} must be in [-2, 2], got {value}.")
    value = made.get("repetition_penalty")
    if value is not None and value <= 0:
        raise ApiError(f"repetition_penalty must be greater than zero, got {value}.")


def _temperature(made: dict[str, Any]) -> None:
    value = made.get("temperature")
    if value is not None and value < 0:
        raise invalid(f"temperature must be non-negative, got {value}.", "temperature", value)
    if value is not None and not value <= 2:
        raise invalid(f"temperature must be in [0, 2], got {value}.", "temperature", value)
    value = made.get("top_p")
    if value is not None and not 0 < value <= 1:
        raise invalid(f"top_p must be in (0, 1], got {value}.", "top_p", value)
    value = made.get("top_k")
    if value is not None and value < -1:
        raise ApiError(f"top_k must be 0 (disable), or at least 1, got {value}.")
    value = made.get("min_p")
    if value is not None and not 0 <= value <= 1:
        raise ApiError(f"min_p must be in [0, 1], got {value}.")


def lengths(max_tokens: int, min_tokens: int) -> None:
    """Refuse an output of no tokens, and a minimum above the maximum."""
    if max_tokens < 1:
        raise invalid(f"max_tokens must be at least 1, got {max_tokens}.", "max_tokens", max_tokens)
    if min_tokens > max_tokens:
        raise ApiError(f"min_tokens must be less than or equal to max_tokens={max_tokens}, got {min_tokens}.")


def engine(made: dict[str, Any], prompts: list[list[int]], logprobs: int | None) -> ApiError | None:
    """What only the engine finds: an error inside the stream if the client asked for one."""
    if logprobs is not None and logprobs > _MAX_LOGPROBS:
        text = f"Requested sample logprobs of {logprobs}, which is greater than max allowed: {_MAX_LOGPROBS}"
        return invalid(text, "logprobs", logprobs)
    for name in ("stop_token_ids", "logit_bias"):
        unknown = [int(token) for token in made.get(name) or () if not 0 <= int(token) < VOCAB_SIZE]
        if unknown:
            text = f"token_id(s) {unknown} in {name} contain out-of-vocab token ids."
            return invalid(f"{text} Vocabulary size: {VOCAB_SIZE}", name, unknown)
    if made.get("allowed_token_ids") == []:
        return invalid("allowed_token_ids is not None and empty!", "allowed_token_ids", [])
    for ids in prompts:
        if not ids:
            return ApiError("The decoder prompt cannot be empty")
        if max(ids) >= VOCAB_SIZE:
            return ApiError(f"Token id {max(ids)} is out of vocabulary")
    return None
