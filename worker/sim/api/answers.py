"""Building the answers that do not stream, with the keys and key order of vLLM 0.32. Pure."""

from __future__ import annotations

from typing import Any

from worker.sim.api import logprobs
from worker.sim.api.guidance.parsing import parser
from worker.sim.api.protocol import GenerationRequest
from worker.sim.api.sse import FINGERPRINT, Identity, prompt_text, usage
from worker.sim.engine.generate import Sequence


def body(request: GenerationRequest, identity: Identity, sequences: list[Sequence]) -> dict[str, Any]:
    """The whole answer of a request that does not stream."""
    make = _chat_choice if request.chat else _completion_choice
    choices = [make(request, index, sequence) for index, sequence in enumerate(sequences)]
    prompt_tokens = sum(len(prompt.ids) for prompt in request.prompts)
    made = sum(len(sequence.token_ids) for sequence in sequences)
    details = None
    if request.guide.counted:
        thoughts = [len(choice["message"]["reasoning"] or "") for choice in choices]  # a token a letter
        details = {"reasoning_tokens": sum(thoughts)}
    head = {
        "id": identity.id,
        "object": "chat.completion" if request.chat else "text_completion",
        "created": identity.created,
        "model": identity.model,
        "choices": choices,
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": usage(prompt_tokens, made, prompt_tokens_details=None, completion_tokens_details=details),
    }
    chat_only: dict[str, Any] = {}
    if request.chat:
        prompt = request.prompts[0]
        chat_only = {
            "prompt_logprobs": logprobs.prompt(prompt.ids, request.prompt_logprobs),
            "prompt_token_ids": prompt.ids if request.return_token_ids else None,
            "prompt_text": prompt.text if request.return_prompt_text else None,
        }
    return {**head, **chat_only, "kv_transfer_params": None, "ec_transfer_params": None, "metrics": None}


def _completion_choice(request: GenerationRequest, index: int, sequence: Sequence) -> dict[str, Any]:
    prompt = request.prompts[index // request.n]
    text, shown = sequence.text, sequence.token_ids
    if request.echo:
        echoed = "" if request.return_token_ids else prompt_text(prompt)
        text = echoed if request.only_prompt else echoed + text
        shown = prompt.ids if request.only_prompt else prompt.ids + shown
    made = None
    if request.logprobs is not None:
        made = logprobs.completion(shown, request.logprobs, 0, request.ids_as_tokens, blank=request.echo)
    return {
        "index": index,
        "text": text,
        "logprobs": made,
        "finish_reason": sequence.finish_reason,
        "stop_reason": sequence.stop_reason,
        "token_ids": sequence.token_ids if request.return_token_ids else None,
        "prompt_logprobs": logprobs.prompt(prompt.ids, request.prompt_logprobs),
        "prompt_token_ids": prompt.ids if request.return_token_ids else None,
        "routed_experts": None,
    }


def _chat_choice(request: GenerationRequest, index: int, sequence: Sequence) -> dict[str, Any]:
    made = None
    if request.logprobs is not None:
        made = logprobs.chat(sequence.token_ids, request.logprobs, request.ids_as_tokens)
    content: str | None = request.echoed + sequence.text
    reasoning, calls, reason = None, {}, sequence.finish_reason
    if (reader := parser(request.guide)) is not None:
        part = reader.feed(sequence.text, ended=True)
        reasoning, content, reason = part.reasoning or None, reader.content(part), reader.finish(reason)
        calls = {"tool_calls": [call.whole() for call in reader.calls]} if reader.calls else {}
    return {
        "index": index,
        "message": {
            "role": request.role,
            "content": content,
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            **calls,
            "reasoning": reasoning,
        },
        "logprobs": made,
        "finish_reason": reason,
        "stop_reason": sequence.stop_reason,
        "token_ids": sequence.token_ids if request.return_token_ids else None,
        "routed_experts": None,
    }
