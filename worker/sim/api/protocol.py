"""Requests: parsing and checking as vLLM's request models and renderer do. Pure.

A request fails in one of three places, and a streaming client sees which: the request model and the renderer
answer 400; the sampling parameters too; what only the engine checks arrives as an event in a stream that has
already begun (``Request.late_error``).
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

from worker.sim.api import checks
from worker.sim.api.fields import Problems, check_all
from worker.sim.api.guidance.guided import FREE, Guide
from worker.sim.api.messages import render
from worker.sim.api.schema import CHAT, COMPLETION
from worker.sim.engine import tokens
from worker.sim.engine.generate import SamplingParams
from worker.sim.errors import ApiError, invalid


@dataclass(slots=True)
class Prompt:
    """One prompt: its token ids, and its text where it has one."""

    ids: list[int]
    text: str | None = None


@dataclass(slots=True)
class GenerationRequest:
    """A checked generation request; ``sampling[i]`` belongs to ``prompts[i]``. More attributes than a class should
    have: each is a field of a body."""

    chat: bool
    model: str | None
    prompts: list[Prompt]
    sampling: list[SamplingParams]
    n: int
    stream: bool
    include_usage: bool
    continuous_usage: bool
    echo: bool
    only_prompt: bool
    logprobs: int | None
    prompt_logprobs: int | None
    ids_as_tokens: bool
    return_token_ids: bool
    return_prompt_text: bool
    request_id: str | None
    role: str = "assistant"
    echoed: str = ""
    late_error: ApiError | None = None
    guide: Guide = FREE


def check_fields(body: dict[str, Any], *, chat: bool) -> dict[str, Any]:
    """The fields of ``body`` with their types made right; raises what vLLM's request model raises."""
    checks.before_chat(body) if chat else checks.before_completion(body)
    problems = Problems()
    if chat and "messages" not in body:
        problems.note("missing", "body.messages", "Field required", body)
    made = check_all(body, CHAT if chat else COMPLETION, problems)
    if problems:
        raise problems.error()
    return made


def build(
    made: dict[str, Any], *, chat: bool, max_model_len: int, served: str, guide: Guide = FREE
) -> GenerationRequest:
    """Render the prompt and make the sampling parameters; ``made`` comes from `check_fields`."""
    limit, limit_name = _limit(made, chat)
    if limit is not None and limit > max_model_len:
        text = f"{limit_name}={limit} cannot be greater than max_model_len={max_model_len}. "
        raise invalid(text + "Please request fewer output tokens.", limit_name, limit)
    role, echoed = "assistant", ""
    if chat:
        rendered = render(made, served)
        role, echoed = rendered.role, rendered.echoed
        prompts = [_chat_prompt(rendered.text, made, max_model_len)]
    else:
        prompts = _completion_prompts(made, max_model_len)
    echo = bool(made.get("echo"))
    only_prompt = not chat and echo and limit == 0
    wanted = 1 if only_prompt else limit
    checks.sampling(made, wanted)
    sampling = [_sampling(made, wanted, max_model_len - len(prompt.ids), guide) for prompt in prompts]
    options = made.get("stream_options") or {}
    usage = bool(options.get("include_usage"))
    logprobs = made.get("logprobs")
    prompt_logprobs = made.get("prompt_logprobs")
    if prompt_logprobs is None and echo:
        prompt_logprobs = made.get("top_logprobs") or 0 if chat else logprobs
    if chat:
        logprobs = made.get("top_logprobs") or 0 if logprobs else None
    return GenerationRequest(
        chat=chat,
        model=made.get("model"),
        prompts=prompts,
        sampling=sampling,
        n=made.get("n") or 1,
        stream=bool(made.get("stream")),
        include_usage=usage,
        continuous_usage=usage and bool(options.get("continuous_usage_stats")),
        echo=echo,
        only_prompt=only_prompt,
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        ids_as_tokens=bool(made.get("return_tokens_as_token_ids")),
        return_token_ids=bool(made.get("return_token_ids")),
        return_prompt_text=bool(made.get("return_prompt_text")),
        request_id=made.get("request_id"),
        role=role,
        echoed=echoed if echo else "",
        guide=guide,
        late_error=checks.engine(made, [prompt.ids for prompt in prompts], logprobs),
    )


def _limit(made: dict[str, Any], chat: bool) -> tuple[int | None, str]:
    if chat and made.get("max_completion_tokens") is not None:
        return made["max_completion_tokens"], "max_completion_tokens"
    value = made.get("max_tokens")
    return (16 if value is None and not chat else value), "max_tokens"


def _sampling(made: dict[str, Any], limit: int | None, room: int, guide: Guide) -> SamplingParams:
    max_tokens = room if limit is None else min(limit, room)
    checks.lengths(max_tokens, made.get("min_tokens", 0))
    allowed = made.get("allowed_token_ids")
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=made.get("min_tokens", 0),
        ignore_eos=made.get("ignore_eos", False),
        stop=tuple(made.get("stop") or ()),
        stop_token_ids=frozenset(made.get("stop_token_ids") or ()),
        include_stop_str_in_output=made.get("include_stop_str_in_output", False),
        allowed_token_ids=tuple(allowed) if allowed else None,
        guide=guide.node,
        optional=guide.optional,
        then_free=guide.then_free,
        salt=_salt(made),
    )


def _salt(made: dict[str, Any]) -> int:
    """Of a seed and of penalties, as far as they have a say."""
    penalties = [made.get(name) or 0 for name in ("presence_penalty", "frequency_penalty")]
    penalties.append((made.get("repetition_penalty") or 1) - 1)
    drawn = made.get("seed") is not None and made.get("temperature") != 0
    seed = [made.get(name) for name in ("seed", "temperature", "top_p", "top_k", "min_p")] if drawn else None
    biased = made.get("logit_bias") or None
    return zlib.crc32(repr((penalties, seed, biased)).encode()) if any(penalties) or seed or biased else 0


def _completion_prompts(made: dict[str, Any], max_model_len: int) -> list[Prompt]:
    if made.get("suffix"):
        text = "suffix is only supported for models with FIM completion rendering"
        raise ApiError(text, param="suffix")
    value = made["prompt"]
    if value == []:
        raise ApiError("You must pass at least one prompt")
    several = value if isinstance(value, list) and not isinstance(value[0], int) else [value]
    bos = made.get("add_special_tokens", True)
    return [_tokenize(item, made, max_model_len, bos=bos) for item in several]


def _chat_prompt(text: str, made: dict[str, Any], max_model_len: int) -> Prompt:
    """The template begins with BOS itself; ``add_special_tokens`` puts one more in front."""
    prompt = _tokenize(text, made, max_model_len, bos=True)
    prompt.text = f"<s>{text}"
    if made.get("add_special_tokens"):
        prompt.ids.insert(0, tokens.BOS)
        checks.token_length(len(prompt.ids), max_model_len)
    return prompt


def _tokenize(item: str | list[int], made: dict[str, Any], max_model_len: int, *, bos: bool) -> Prompt:
    keep = made.get("truncate_prompt_tokens")
    if isinstance(item, str):
        checks.text_length(item, max_model_len, keep)
        prompt = Prompt(tokens.encode(item, bos=bos), item)
        if keep is None:  # vLLM's tokenizer stops one token after the limit
            prompt.ids = prompt.ids[: max_model_len + 1]
    else:
        prompt = Prompt(item)
    if keep is not None:
        limit = max(0, max_model_len - 1) if keep < 0 else keep
        cut = prompt.ids[-limit:] if made.get("truncation_side") == "left" and limit else prompt.ids[:limit]
        prompt.ids = cut
    checks.token_length(len(prompt.ids), max_model_len)
    return prompt
