"""``/v1/responses``: a chat too, in the items and numbered events of OpenAI's newer API. Pure."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from worker.sim.api.fields import Problems
from worker.sim.api.guidance.parsing import MadeCall, Parser
from worker.sim.api.protocol import GenerationRequest
from worker.sim.api.sse import Identity, Stream, dumps
from worker.sim.engine.generate import Sequence, TokenStep
from worker.sim.errors import ApiError

_SAME = (
    "model", "stream", "temperature", "top_p", "top_k", "seed", "logit_bias", "presence_penalty", "frequency_penalty",
    "repetition_penalty", "structured_outputs", "chat_template_kwargs", "vllm_xargs", "tool_choice", "stop",
)  # fmt: skip


def chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """The body of the chat that it is answered by. Raises ApiError."""
    problems = Problems()
    if "input" not in body:
        problems.note("missing", "body.input", "Field required", body)
        raise problems.error()
    made = {name: body[name] for name in _SAME if body.get(name) is not None}
    try:
        given, limit = body["input"], body.get("max_output_tokens")
        items = [{"role": "user", "content": given}] if isinstance(given, str) else [_message(item) for item in given]
        system = [{"role": "system", "content": body["instructions"]}] if body.get("instructions") else []
        form = (body.get("text") or {}).get("format") or {"type": "text"}
        tools = [_function(tool) for tool in body.get("tools") or ()]
        choice = made.get("tool_choice")
    except (KeyError, TypeError, AttributeError):
        problems.note("model_type", "body.input", "Input should be a valid string or list of items", body["input"])
        raise problems.error() from None
    if isinstance(choice, Mapping):
        made["tool_choice"] = {"type": "function", "function": {"name": choice.get("name")}}
    if not tools:
        made.pop("tool_choice", None)
    schema = {"json_schema": form} if form.get("type") == "json_schema" else {}
    return {
        **made, "messages": [*system, *items], "response_format": {"type": form.get("type"), **schema},
        **({"tools": tools} if tools else {}), **({} if limit is None else {"max_tokens": limit}),
    }  # fmt: skip


def _function(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {"name": tool["name"], "parameters": tool.get("parameters")}}


def _message(item: Mapping[str, Any]) -> dict[str, Any]:
    if item.get("type", "message") != "message":
        return {"role": "user", "content": json.dumps(item)}
    content = item["content"]
    text = content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)
    return {"role": item["role"], "content": text}


class Response:
    """The object that an answer is, and that begins and ends a stream."""

    def __init__(self, request: GenerationRequest, identity: Identity, asked: Mapping[str, Any]) -> None:
        self.identity, self._asked, self._prompt = identity, asked, len(request.prompts[0].ids)

    def now(self, status: str, output: list[dict[str, Any]], made: int | None = None) -> dict[str, Any]:
        """``made``: tokens, once it has ended."""
        asked = self._asked
        tools = [_tool(tool) for tool in asked.get("tools") or ()]
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self.identity.id, "created_at": self.identity.created, "incomplete_details": incomplete,
            "instructions": asked.get("instructions"), "metadata": asked.get("metadata"), "model": self.identity.model,
            "object": "response", "output": output, "parallel_tool_calls": True,
            "temperature": float(asked.get("temperature", 1)),
            "tool_choice": asked.get("tool_choice", "auto") if tools else "none",
            "tools": tools, "top_p": float(asked.get("top_p", 1)), "background": False,
            "max_output_tokens": asked.get("max_output_tokens"), "max_tool_calls": None, "previous_response_id": None,
            "prompt": None, "reasoning": None, "service_tier": "auto", "status": status, "text": asked.get("text"),
            "top_logprobs": None, "truncation": "disabled", "usage": None if made is None else self._usage(made),
            "user": asked.get("user"), "presence_penalty": float(asked.get("presence_penalty", 0)),
            "frequency_penalty": float(asked.get("frequency_penalty", 0)), "kv_transfer_params": None,
            "ec_transfer_params": None, "input_messages": None, "output_messages": None,
        }  # fmt: skip

    def _usage(self, made: int) -> dict[str, Any]:
        cached: dict[str, Any] = {"cached_tokens": 0, "cache_write_tokens": 0}
        cached |= {"input_tokens_per_turn": [], "cached_tokens_per_turn": []}
        turns: dict[str, Any] = {"output_tokens_per_turn": [], "tool_output_tokens_per_turn": []}
        return {
            "input_tokens": self._prompt, "input_tokens_details": cached, "output_tokens": made,
            "output_tokens_details": {"reasoning_tokens": 0, "tool_output_tokens": 0, **turns},
            "total_tokens": self._prompt + made,
        }  # fmt: skip


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    unset = ("allowed_callers", "async", "defer_loading", "description", "output_schema")
    head = {"name": tool["name"], "parameters": tool.get("parameters"), "strict": tool.get("strict")}
    return {**head, "type": "function", **{name: tool.get(name) for name in unset}}


def _thought(id_: str, text: str | None, status: str | None) -> dict[str, Any]:
    content = None if text is None else [{"text": text, "type": "reasoning_text"}]
    head = {"id": id_, "summary": [], "type": "reasoning", "content": content}
    return {**head, "encrypted_content": None, "status": status}


def _part(text: str, logprobs: list[Any] | None) -> dict[str, Any]:
    return {"annotations": [], "text": text, "type": "output_text", "logprobs": logprobs}


def _said(id_: str, text: str | None, status: str) -> dict[str, Any]:
    content = [] if text is None else [_part(text, None)]
    return {"id": id_, "content": content, "role": "assistant", "status": status, "type": "message", "phase": None}


def _called(id_: str, call: MadeCall, arguments: str, status: str) -> dict[str, Any]:
    head = {"arguments": arguments, "call_id": call.id, "name": call.name, "type": "function_call", "id": id_}
    return {**head, "async": None, "caller": None, "namespace": None, "status": status}


def answer(
    request: GenerationRequest, identity: Identity, sequences: list[Sequence], asked: Mapping[str, Any]
) -> dict[str, Any]:
    """The whole answer of a request that does not stream."""
    (sequence,), parser = sequences, Parser(request.guide)
    part = parser.feed(sequence.text, ended=True)
    output = [_thought(_id("rs"), part.reasoning, None)] if part.reasoning else []
    output += [_said(_id("msg"), part.content, "completed")] if part.content else []
    output += [_called(_id("fc"), call, call.arguments, "completed") for call in parser.calls]
    status = "incomplete" if sequence.finish_reason == "length" else "completed"
    return Response(request, identity, asked).now(status, output, len(sequence.token_ids))


def _id(kind: str) -> str:
    return f"{kind}_{os.urandom(8).hex()}"


class ResponsesStream(Stream):
    """Items one after the other, each with the events of its kind; all events are numbered."""

    def __init__(self, request: GenerationRequest, identity: Identity, asked: Mapping[str, Any]) -> None:
        super().__init__(request, identity)
        self._response, self._parser = Response(request, identity, asked), Parser(request.guide)
        self._number = 0
        self._output: list[dict[str, Any]] = []
        self._kind, self._item, self._text = "", "", ""
        self._call: MadeCall | None = None

    def first(self) -> list[str]:
        begun = self._response.now("in_progress", [])
        return [self._event(f"response.{kind}", response=begun) for kind in ("created", "in_progress")]

    def event(self, index: int, step: TokenStep) -> str | None:
        self.made[index] += len(step.token_ids)
        part, out = self._parser.feed(step.text, step.finish_reason is not None), ""
        if part.reasoning:
            out += self._open("reasoning", "rs") + self._delta("reasoning_text", part.reasoning)
        if part.content:
            out += self._open("message", "msg") + self._delta("output_text", part.content, logprobs=[])
        for _, call in part.begun:
            out += self._open("function_call", "fc", call)
        for text in part.arguments.values():
            out += self._argue(text)
        return out or None

    def last(self) -> str:
        closed = self._close()
        # What vLLM says in its last event, however it has ended.
        return closed + self._event(
            "response.completed", response=self._response.now("completed", self._output, sum(self.made))
        )

    def _open(self, kind: str, prefix: str, call: MadeCall | None = None) -> str:
        if self._kind == kind and call is None:
            return ""
        out = self._close()
        self._kind, self._item, self._text, self._call = kind, _id(prefix), "", call
        out += self._event("response.output_item.added", item=self._state(None, "in_progress"), output_index=self._at)
        if kind == "reasoning":
            out += self._part("added", {"text": "", "type": "reasoning_text"})
        elif kind == "message":
            out += self._part("added", _part("", []))
        return out

    def _close(self) -> str:
        if not self._kind:
            return ""
        item, text, at = self._item, self._text, self._at
        if self._call is not None:
            done = {"arguments": text, "item_id": item, "output_index": at, "name": self._call.name}
            out = self._event("response.function_call_arguments.done", **done)
        elif self._kind == "message":
            said = {"content_index": 0, "item_id": item, "logprobs": [], "output_index": at, "text": text}
            out = self._event("response.output_text.done", **said) + self._part("done", _part(text, None))
        else:
            thought = {"content_index": 0, "item_id": item, "output_index": at, "text": text}
            out = self._event("response.reasoning_text.done", **thought)
            out += self._part("done", {"text": text, "type": "reasoning_text"})
        done = self._state(text, "completed")
        out += self._event("response.output_item.done", item=done, output_index=at)
        self._output.append(done)
        self._kind, self._call = "", None
        return out

    @property
    def _at(self) -> int:
        return len(self._output)

    def _state(self, text: str | None, status: str) -> dict[str, Any]:
        if self._call is not None:
            return _called(self._item, self._call, text or "", status)
        return (_said if self._kind == "message" else _thought)(self._item, text, status)

    def _part(self, what: str, part: dict[str, Any]) -> str:
        place = {"content_index": 0, "item_id": self._item, "output_index": self._at}
        return self._event(f"response.content_part.{what}", **place, part=part)

    def _delta(self, kind: str, text: str, **more: Any) -> str:
        self._text += text
        place = {"content_index": 0, "delta": text, "item_id": self._item, **more, "output_index": self._at}
        return self._event(f"response.{kind}.delta", **place)

    def _argue(self, text: str) -> str:
        self._text += text
        place = {"delta": text, "item_id": self._item, "output_index": self._at}
        return self._event("response.function_call_arguments.delta", **place)

    def _event(self, kind: str, **fields: Any) -> str:
        """Fields after ``output_index`` but the kind follow the number by the alphabet, as they do with vLLM."""
        number, self._number = self._number, self._number + 1
        numbered = {**fields, "sequence_number": number, "type": kind}
        late = sorted(name for name in numbered if name > "sequence_number" and name != "type")
        ordered = [name for name in numbered if name not in (*late, "type")]
        data = {name: numbered[name] for name in (*ordered, *late, "type")}
        if kind.endswith("arguments.done"):
            data["name"] = data.pop("name")  # of a class of its own
        return f"event: {kind}\ndata: {dumps(data)}\n\n"

    def failed(self, error: ApiError) -> str | None:
        return None
