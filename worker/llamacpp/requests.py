"""What a request of vLLM's API asks of llama.cpp, and what of it llama.cpp has no word for. Pure.

Fields that neither knows are let through and ignored, as vLLM does. What vLLM knows and llama.cpp does not is refused:
an answer that ignores it would be another one than was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.sim.api import checks
from worker.sim.errors import ApiError, invalid

_COMPLETION_TOKENS = 16  # vLLM's, where none are asked for
_MOST_LOGPROBS = 20
_MOST_CHOICES = 128  # of one request

#: Fields that are refused unless they have one of these values.
_REFUSED: dict[str, tuple[object, ...]] = {
    "suffix": (None, ""), "use_beam_search": (None, False), "stop_token_ids": (None, []), "bad_words": (None, []),
    "allowed_token_ids": (None,), "prompt_logprobs": (None,), "truncate_prompt_tokens": (None,),
    "min_tokens": (None, 0), "prompt_embeds": (None,), "logprob_token_ids": (None, []),
    "return_tokens_as_token_ids": (None, False), "continue_final_message": (None, False), "documents": (None, []),
    "thinking_token_budget": (None, -1), "repetition_detection": (None,), "vllm_xargs": (None, {}),
    "kv_transfer_params": (None,), "ec_transfer_params": (None,), "mm_processor_kwargs": (None, {}),
    "length_penalty": (None, 1, 1.0), "watermarking": (None, False), "cache_salt": (None,), "priority": (None, 0),
    "skip_special_tokens": (None, True), "return_prompt_text": (None, False), "chat_template": (None,),
    "add_generation_prompt": (None, True), "functions": (None, []),
}  # fmt: skip

#: llama.cpp's names for what both have.
_SAMPLING = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p", "stop": "stop",
    "presence_penalty": "presence_penalty", "frequency_penalty": "frequency_penalty",
    "repetition_penalty": "repeat_penalty", "ignore_eos": "ignore_eos",
}  # fmt: skip
_PENALTIES = ("presence_penalty", "frequency_penalty", "repetition_penalty")

_GUIDED = {"guided_json": "json", "guided_regex": "regex", "guided_choice": "choice", "guided_grammar": "grammar"}


@dataclass(frozen=True, slots=True)
class LlamaRequest:
    """``limit``: tokens of the answer at most, None: as many as there is room for. ``logprobs``: alternatives to be
    told with each token, None: none are. ``ids``: the ids of tokens are. ``native``: fields for llama.cpp, of each of
    ``n`` answers; ``seed`` of the first."""

    chat: bool
    stream: bool
    n: int
    limit: int | None
    logprobs: int | None
    ids: bool
    echo: bool
    include_usage: bool
    continuous_usage: bool
    include_stop: bool
    special: bool
    seed: int | None
    native: dict[str, Any] = field(default_factory=dict)

    @property
    def lag(self) -> int:
        """Characters that vLLM holds back, as a stop string may begin in them (`StepReader`)."""
        return 0 if self.include_stop else max(map(len, self.native.get("stop") or ("x",))) - 1

    def body(self, number: int, prompt: list[int], context: int) -> dict[str, Any]:
        """For llama.cpp's ``/completion``: answer ``number``, after ``prompt``. Raises ApiError where nothing fits."""
        room = context - len(prompt)
        limit = room if self.limit is None else min(self.limit, room)
        checks.lengths(limit, 0)
        seed = {} if self.seed is None else {"seed": (self.seed + number) % (2**32 - 1)}
        return {**self.native, **seed, "prompt": prompt, "n_predict": limit, "stream": True, "return_tokens": True}


def read(made: Mapping[str, Any], body: Mapping[str, Any], *, chat: bool) -> LlamaRequest:
    """Of the fields of ``body``, ``made`` with their types as the engine takes them. Raises ApiError."""
    given = {**body, **made}
    for name, values in _REFUSED.items():
        if name in given and given[name] not in values:
            raise invalid(f"llama.cpp has no {name}: it is not ignored, as the answer would be another", name)
    n = made.get("n") or 1
    if body.get("best_of") not in (None, 1, n):
        raise invalid("llama.cpp has no best_of", "best_of")
    if n > _MOST_CHOICES:
        raise invalid(f"n must be at most {_MOST_CHOICES}, got {n}.", "n", n)
    if made.get("echo") and (chat or made.get("logprobs") is not None):
        raise invalid("llama.cpp echoes the prompt of a completion only, and without logprobs", "echo")
    limit = _limit(made, chat)
    checks.sampling(dict(made), limit)
    logprobs = (made.get("top_logprobs") or 0 if made.get("logprobs") else None) if chat else made.get("logprobs")
    if logprobs is not None and not 0 <= logprobs <= _MOST_LOGPROBS:
        name = "top_logprobs" if chat else "logprobs"
        raise invalid(f"{name} must be between 0 and {_MOST_LOGPROBS}, got {logprobs}.", name, logprobs)
    options = made.get("stream_options") or {}
    usage = bool(options.get("include_usage"))
    return LlamaRequest(
        chat=chat, stream=bool(made.get("stream")), n=n, limit=limit, logprobs=logprobs,
        ids=bool(made.get("return_token_ids")), echo=bool(made.get("echo")), include_usage=usage,
        continuous_usage=usage and bool(options.get("continuous_usage_stats")),
        include_stop=bool(made.get("include_stop_str_in_output")),
        special=chat or made.get("add_special_tokens", True), seed=made.get("seed"),
        native={**sampling(made), **guided(given), **({} if logprobs is None else {"n_probs": max(1, logprobs)})},
    )  # fmt: skip


def _limit(made: Mapping[str, Any], chat: bool) -> int | None:
    if chat and made.get("max_completion_tokens") is not None:
        return int(made["max_completion_tokens"])
    value = made.get("max_tokens")
    return _COMPLETION_TOKENS if value is None and not chat else value


def sampling(made: Mapping[str, Any]) -> dict[str, Any]:
    """What is left out is as the model's file or llama.cpp has it."""
    native = {other: made[name] for name, other in _SAMPLING.items() if made.get(name) is not None}
    if native.get("top_k") == -1:
        native["top_k"] = 0
    if made.get("logit_bias"):
        native["logit_bias"] = [[int(token), bias] for token, bias in made["logit_bias"].items()]
    if any(made.get(name) for name in _PENALTIES):
        native["repeat_last_n"] = -1  # all tokens, where llama.cpp looks at the last 64
    return native


def guided(given: Mapping[str, Any]) -> dict[str, Any]:
    """The grammar that holds the answer to its form. Raises ApiError."""
    wanted = {short: given[name] for name, short in _GUIDED.items() if given.get(name) is not None}
    structured = given.get("structured_outputs")
    if isinstance(structured, dict):
        wanted |= {key: value for key, value in structured.items() if value not in (None, False)}
    form = given.get("response_format")
    if isinstance(form, dict) and form.get("type") == "json_object":
        wanted["json_object"] = True
    elif isinstance(form, dict) and form.get("type") == "json_schema":
        described = form.get("json_schema")
        wanted["json"] = described.get("schema") if isinstance(described, dict) else None
    elif isinstance(form, dict) and form.get("type") != "text":
        raise invalid(f"llama.cpp has no response_format {form.get('type')!r}", "response_format")
    if not wanted:
        return {}
    if len(wanted) > 1 or not wanted.keys() <= {"json", "json_object", "regex", "choice", "grammar"}:
        raise invalid(f"llama.cpp holds an answer to one form: {', '.join(sorted(wanted))}", "structured_outputs")
    return _grammar(*next(iter(wanted.items())))


def _grammar(kind: str, value: Any) -> dict[str, Any]:
    if kind == "json_object":
        return {"json_schema": {"type": "object"}}
    if kind == "json":
        try:
            schema = json.loads(value) if isinstance(value, str) else value
        except (ValueError, RecursionError):
            schema = None
        if not isinstance(schema, dict | bool):
            raise ApiError("the JSON schema is no object")
        return {"json_schema": schema}
    if kind == "choice":
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise ApiError("choice: a list of texts is needed")
        return {"grammar": "root ::= " + " | ".join(json.dumps(item, ensure_ascii=False) for item in value)}
    if not isinstance(value, str):
        raise ApiError(f"{kind}: text is needed")
    if kind == "regex":
        pattern = value.replace("/", r"\/")
        return {"grammar": f"%llguidance {{}}\nstart: /{pattern}/"}
    return {"grammar": value}
