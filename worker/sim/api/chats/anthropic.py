"""``/v1/messages``: vLLM makes a chat of it, and events of Anthropic's kind of that chat's. Pure."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from worker.sim.api.fields import Problems
from worker.sim.api.guidance.parsing import Parser
from worker.sim.api.protocol import GenerationRequest
from worker.sim.api.sse import Identity, Stream, dumps
from worker.sim.engine.generate import Sequence, TokenStep
from worker.sim.errors import ApiError

_SAME = ("model", "max_tokens", "stream", "temperature", "top_p", "top_k", "chat_template_kwargs", "vllm_xargs")
_CHOICES = {"any": "required", "auto": "auto", "none": "none"}


class MessagesError(ApiError):
    """In Anthropic's shape."""

    def body(self) -> dict[str, Any]:
        return {"type": "error", "error": {"type": self.kind, "message": self.message}}


def chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of the chat that it is answered by. Raises ApiError."""
    problems = Problems()
    for name in ("model", "messages", "max_tokens"):
        if name not in body:
            problems.note("missing", f"body.{name}", "Field required", body)
    if problems:
        raise problems.error()
    made = {name: body[name] for name in _SAME if name in body}
    try:
        system = [{"role": "system", "content": _text(body["system"])}] if body.get("system") else []
        messages = [{"role": m["role"], "content": _text(m["content"])} for m in body["messages"]]
        tools = [{"type": "function", "function": _function(tool)} for tool in body.get("tools") or ()]
        choice = body.get("tool_choice") or {}
        named = {"type": "function", "function": {"name": choice.get("name")}}
        made |= {"messages": [*system, *messages]}
        if tools:
            made |= {"tools": tools, "tool_choice": _CHOICES.get(choice.get("type", "auto"), named)}
    except (KeyError, TypeError, AttributeError):
        problems.note("model_type", "body.messages", "Input should be a valid list of messages", body["messages"])
        raise problems.error() from None
    return {**made, **({"stop": body["stop_sequences"]} if body.get("stop_sequences") else {})}


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": tool["name"], "description": tool.get("description"), "parameters": tool.get("input_schema")}


def _text(content: Any) -> str:
    """Of a message: its blocks, one a line."""
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] if block["type"] == "text" else json.dumps(block) for block in content)


def _stop(reason: str | None, stop: object, parser: Parser) -> tuple[str | None, str | None]:
    if reason == "length":
        return "max_tokens", None
    if reason not in ("stop", "tool_calls"):
        return None, None
    if parser.calls:
        return "tool_use", None
    return ("stop_sequence", stop) if isinstance(stop, str) else ("end_turn", None)


def answer(request: GenerationRequest, identity: Identity, sequences: list[Sequence]) -> dict[str, Any]:
    """The whole answer of a request that does not stream."""
    (sequence,), parser = sequences, Parser(request.guide)
    part = parser.feed(sequence.text, ended=True)
    blocks: list[dict[str, Any]] = []
    if part.reasoning:
        blocks.append({"type": "thinking", "thinking": part.reasoning, "signature": os.urandom(16).hex()})
    if part.content:
        blocks.append({"type": "text", "text": part.content})
    for call in parser.calls:
        arguments = json.loads(call.arguments) if sequence.finish_reason != "length" else {}
        blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": arguments})
    reason, stop = _stop(sequence.finish_reason, sequence.stop_reason, parser)
    usage = {"input_tokens": len(request.prompts[0].ids), "output_tokens": len(sequence.token_ids)}
    head = {"id": identity.id, "type": "message", "role": "assistant", "content": blocks, "model": identity.model}
    ends = {"stop_reason": reason, "stop_sequence": stop}
    return {**head, **{name: value for name, value in ends.items() if value is not None}, "usage": usage}


class MessagesStream(Stream):
    """An event for each piece of a block, and blocks one after the other."""

    def __init__(self, request: GenerationRequest, identity: Identity) -> None:
        super().__init__(request, identity)
        self._identity, self._parser = identity, Parser(request.guide)
        self._block, self._index = "", -1
        self._held = ""  # text between calls, which waits until the call before it has ended
        self._ended: tuple[str | None, Any] = (None, None)

    def first(self) -> list[str]:
        message: dict[str, Any] = {
            "id": self._identity.id, "type": "message", "role": "assistant", "content": [],
            "model": self._identity.model, "stop_reason": None, "stop_sequence": None, "usage": self._count(),
        }  # fmt: skip
        return [_event("message_start", {"message": message})]

    def event(self, index: int, step: TokenStep) -> str | None:
        self.made[index] += len(step.token_ids)
        if step.finish_reason:
            self._ended = (step.finish_reason, step.stop_reason)
        part, out = self._parser.feed(step.text, step.finish_reason is not None), ""
        if part.reasoning:
            out += self._open("thinking", {"type": "thinking", "thinking": ""})
            out += self._delta({"type": "thinking_delta", "thinking": part.reasoning})
        if part.content and self._block == "tool_use":
            self._held += part.content
        elif part.content:
            out += self._write(part.content)
        for number, call in part.begun:
            block = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            out += self._open(f"tool_use {number}", block)
        for text in part.arguments.values():
            out += self._delta({"type": "input_json_delta", "partial_json": text})
        return out or None

    def last(self) -> str:
        reason, stop = _stop(*self._ended, self._parser)
        delta = {"delta": {"stop_reason": reason, "stop_sequence": stop}, "usage": self._count()}
        return self._close() + _event("message_delta", delta) + _event("message_stop", {})

    def failed(self, error: ApiError) -> str:
        return _event("error", {"error": {"type": "internal_error", "message": error.message}})

    def _write(self, text: str) -> str:
        return self._open("text", {"type": "text", "text": ""}) + self._delta({"type": "text_delta", "text": text})

    def _open(self, kind: str, block: dict[str, Any]) -> str:
        if self._block == kind:
            return ""
        closed = self._close()
        self._block, self._index = kind, self._index + 1
        return closed + _event("content_block_start", {"content_block": block, "index": self._index})

    def _close(self) -> str:
        if not self._block:
            return ""
        thought = {"type": "signature_delta", "signature": os.urandom(16).hex()}
        out = self._delta(thought) if self._block == "thinking" else ""
        out += _event("content_block_stop", {"index": self._index})
        self._block, held, self._held = "", self._held, ""
        return out + (self._write(held) + self._close() if held else "")

    def _delta(self, delta: dict[str, Any]) -> str:
        return _event("content_block_delta", {"delta": delta, "index": self._index})

    def _count(self) -> dict[str, int]:
        return {"input_tokens": self.prompt_tokens[0], "output_tokens": sum(self.made)}


def _event(kind: str, fields: Mapping[str, Any]) -> str:
    return f"event: {kind}\ndata: {dumps({'type': kind, **fields})}\n\n"
