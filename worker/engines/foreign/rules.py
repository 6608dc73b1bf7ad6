"""What a request has to look like for an engine that is not vLLM. Pure.

Such an engine leaves out silently what it does not know, or serves whatever model a request names. A worker says that
it cannot (400), or that it has no such model (404), as vLLM does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

#: Of the two routes that a worker generates by, the one with messages.
CHAT = "/v1/chat/completions"

#: Fields that have no part in the answer, or ask for what comes without asking.
_WITHOUT_EFFECT = frozenset({
    "user", "metadata", "store", "service_tier", "priority", "request_id", "cache_salt", "safety_identifier",
    "prompt_cache_key", "stream_options", "return_token_ids", "return_tokens_as_token_ids", "include_reasoning",
    "parallel_tool_calls", "reasoning_effort", "verbosity", "add_generation_prompt", "add_special_tokens",
    "skip_special_tokens", "spaces_between_special_tokens", "truncate_prompt_tokens", "vllm_xargs",
})  # fmt: skip

#: What the balancer asks for in a stream, and another engine would stumble on.
_OURS = frozenset({"return_token_ids"})

_CHAT_ASKS, _COMPLETION_ASKS = frozenset({"messages", "tools"}), frozenset({"prompt"})

#: Values that ask for nothing, by field; None and False ask for nothing of any.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "logprobs": (0,), "top_logprobs": (0,), "presence_penalty": (0,),
    "frequency_penalty": (0,), "repetition_penalty": (1,), "top_k": (0, -1), "min_p": (0,), "min_tokens": (0,),
    "length_penalty": (1,), "tool_choice": ("auto", "none"), "response_format": ({"type": "text"},), "tools": ([],),
    "stop_token_ids": ([],), "logit_bias": ({},), "chat_template_kwargs": ({},), "suffix": ("",),
    "documents": ([],), "functions": ([],), "modalities": (["text"],),
}  # fmt: skip

#: Of ``chat_template_kwargs``: others would be arguments of the engine's own, such as the template.
_TEMPLATE_WORDS = frozenset({"enable_thinking", "thinking"})

#: Kinds of the parts of a message that are text: what is behind a URL would be fetched by the engine.
_TEXT = frozenset({"text", "input_text", "refusal"})


class RefusedRequest(Exception):
    """An answer in place of the engine's; ``param``: the field that is at fault."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.param = status, param

    def body(self) -> bytes:
        """In OpenAI's shape."""
        kind = "NotFoundError" if self.status == 404 else "BadRequestError"
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.status}
        return json.dumps({"error": error}).encode()


def _as_it_is(body: dict[str, Any], chat: bool) -> None:
    """Nothing is to be changed."""


@dataclass(frozen=True, slots=True)
class RequestRules:
    """Of one engine. ``takes``: fields that it goes by, besides what is asked itself; None: it says itself what it does
    not know, and everything is passed on but what ``refuses`` names. ``renames``: fields that it knows under another
    name. ``complete(body, chat)`` changes a request that is in order to what the engine understands by it.
    ``streams_only``: every answer is made as a stream, which the engine ends when a client leaves; it does not end
    others."""

    name: str
    takes: frozenset[str] | None = None
    refuses: frozenset[str] = frozenset()
    renames: Mapping[str, str] = field(default_factory=dict)
    complete: Callable[[dict[str, Any], bool], None] = _as_it_is
    streams_only: bool = False


@dataclass(frozen=True, slots=True)
class Serving:
    """One worker of ``engine``: what its model is called by clients (``names``, the first is the model's), what the
    engine calls it in requests (``asked_as``; None: as the client) and in answers (``answers_as``). ``seats``: requests
    it computes at a time. ``context``: tokens of prompt and answer together, None: not known. ``cores``: that it may
    run on; empty: all."""

    engine: str
    names: tuple[str, ...]
    seats: int
    asked_as: str | None = None
    answers_as: str | None = None
    context: int | None = None
    cores: tuple[int, ...] = ()

    def to_json(self) -> str:
        """For the command line of the process; `from_json` reads it."""
        return json.dumps({name: value for name, value in asdict(self).items() if value not in (None, ())})

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Serving:
        """Raises TypeError, KeyError for what `to_json` did not write."""
        return cls(**{**data, "names": tuple(data["names"]), "cores": tuple(data.get("cores", ()))})

    def cards(self, created: int) -> dict[str, Any]:
        """What ``/v1/models`` answers. ``created``: s since the epoch."""
        more = {} if self.context is None else {"max_model_len": self.context}
        cards = [
            {"id": name, "object": "model", "created": created, "owned_by": "clusterctl", "root": self.names[0],
             "parent": None, **more}
            for name in self.names
        ]  # fmt: skip
        return {"object": "list", "data": cards}


@dataclass(frozen=True, slots=True)
class Adapted:
    """What the engine is asked, the name by which the client asked for the model, and whether it wants a stream."""

    body: dict[str, Any]
    model: str
    streams: bool


def adapt(raw: bytes, chat: bool, rules: RequestRules, serving: Serving) -> Adapted:
    """Raises RefusedRequest for what the engine cannot do, or would do without saying so."""
    try:
        data = json.loads(raw)
    except (ValueError, RecursionError):
        raise RefusedRequest(400, "the body is no JSON") from None
    if not isinstance(data, dict):
        raise RefusedRequest(400, "the body is no JSON object")
    model = data.pop("model", None)
    if model is None:
        model = serving.names[0]
    if model not in serving.names:
        raise RefusedRequest(404, f"The model `{str(model)[:200]}` does not exist.", "model")
    streams = data.pop("stream", None) or False
    if not isinstance(streams, bool):
        raise RefusedRequest(400, "stream: true or false is needed", "stream")
    body = {rules.renames.get(name, name): value for name, value in data.items() if value is not None}
    for name in [name for name in body if not _passes(name, chat, rules)]:
        if not _asks_for_nothing(name, body.pop(name)):
            raise RefusedRequest(400, f"{name[:100]}: the engine {rules.name} does not support it", name[:100])
    if rules.takes is not None:
        _check(body, chat, rules)
    rules.complete(body, chat)
    body["model"] = model if serving.asked_as is None else serving.asked_as
    body["stream"] = streams or rules.streams_only
    return Adapted(body, model, streams)


def _passes(name: str, chat: bool, rules: RequestRules) -> bool:
    if rules.takes is None:
        return name not in rules.refuses and name not in _OURS
    return name in rules.takes or name in (_CHAT_ASKS if chat else _COMPLETION_ASKS)


def _asks_for_nothing(name: str, value: Any) -> bool:
    if value is False or name in _WITHOUT_EFFECT:
        return True
    # 1 == True in Python, and not in JSON.
    return not isinstance(value, bool) and value in _NEUTRAL.get(name, ())


def _check(body: dict[str, Any], chat: bool, rules: RequestRules) -> None:
    """Raises RefusedRequest for what such an engine fails on, or reads from other places than the request."""
    for name, (wanted, holds) in _SHAPES.items():
        if name in body and not holds(body[name]):
            raise RefusedRequest(400, f"{name}: {wanted} is needed", name)
    if not chat:
        if not isinstance(body.get("prompt"), str):
            raise RefusedRequest(400, f"prompt: the engine {rules.name} takes one text", "prompt")
        return
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or not all(map(_has_a_role, messages)):
        raise RefusedRequest(400, "messages: a list of messages, each with a role, is needed", "messages")
    if not all(_is_text(message.get("content")) for message in messages):
        raise RefusedRequest(400, f"messages: the engine {rules.name} takes text alone", "messages")


def _is_whole(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(least: float, greatest: float) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= greatest
    )


def _are_texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(text, str) for text in value))


def _are_biases(value: Any) -> bool:
    return isinstance(value, dict) and all(
        name.isascii() and name.isdigit() and _is_number(-100, 100)(bias) for name, bias in value.items()
    )


def _are_options(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("include_usage"), bool)


def _has_a_role(message: Any) -> bool:
    return isinstance(message, dict) and isinstance(message.get("role"), str)


#: What the values of fields are, in words and as a test.
_SHAPES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "max_tokens": ("a whole number from 1 on", _is_whole(1)),
    "temperature": ("a number from 0 to 2", _is_number(0, 2)),
    "top_p": ("a number from 0 to 1", _is_number(0, 1)),
    "top_k": ("a whole number from 0 on", _is_whole(0)),
    "min_p": ("a number from 0 to 1", _is_number(0, 1)),
    "presence_penalty": ("a number from -2 to 2", _is_number(-2, 2)),
    "frequency_penalty": ("a number from -2 to 2", _is_number(-2, 2)),
    "repetition_penalty": ("a number from 0 to 10", _is_number(0, 10)),
    "seed": ("a whole number from 0 on", _is_whole(0)),
    "stop": ("a text or a list of texts", _are_texts),
    "logit_bias": ("numbers from -100 to 100 by the ids of tokens", _are_biases),
    "stream_options": ("include_usage: true or false", _are_options),
    "tools": ("a list", lambda value: isinstance(value, list) and all(isinstance(tool, dict) for tool in value)),
    "chat_template_kwargs": (
        f"one of {', '.join(sorted(_TEMPLATE_WORDS))}",
        lambda value: isinstance(value, dict) and value.keys() <= _TEMPLATE_WORDS,
    ),
}  # fmt: skip


def _is_text(content: Any) -> bool:
    if not isinstance(content, list):
        return content is None or isinstance(content, str)
    return all(isinstance(part, dict) and part.get("type") in _TEXT and isinstance(part.get("text"), str)
               for part in content)  # fmt: skip
