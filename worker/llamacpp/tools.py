"""Chats that may call tools go to llama.cpp's own route, which reads the calls out of what the model says. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worker.sim.errors import invalid


def wanted(body: Mapping[str, Any]) -> bool:
    """Whether the answer may be a call of a tool, which llama.cpp's own chat reads."""
    return bool(body.get("tools")) and body.get("tool_choice") != "none"


def offered(body: Mapping[str, Any]) -> dict[str, Any]:
    """Of a chat for llama.cpp's own route. A named tool is the only one, and required. Raises ApiError."""
    chosen, tools = body.get("tool_choice", "auto"), body["tools"]
    if isinstance(chosen, dict):
        function = chosen.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        tools = [tool for tool in tools if _name(tool) == name]
        if not tools:
            raise invalid(f"tool_choice names {name!r}, which is none of the tools", "tool_choice")
        chosen = "required"
    made = {"tools": tools, "tool_choice": chosen}
    return made | ({"parallel_tool_calls": body["parallel_tool_calls"]} if "parallel_tool_calls" in body else {})


def joined(events: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The answer that is not streamed, out of the events of llama.cpp's chat."""
    message: dict[str, Any] = {"role": "assistant", "content": None}
    calls: dict[int, dict[str, Any]] = {}
    reason, counts = "stop", None
    for event in events:
        counts = event.get("usage") or counts
        for choice in event.get("choices") or ():
            delta, reason = choice.get("delta") or {}, choice.get("finish_reason") or reason
            for name in ("content", "reasoning_content"):
                if delta.get(name):
                    message[name] = (message.get(name) or "") + delta[name]
            for part in delta.get("tool_calls") or ():
                _add(calls.setdefault(part["index"], {"id": "", "type": "function", "function": {}}), part)
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    return {"choices": [choice], "usage": counts}


def _name(tool: Any) -> Any:
    function = tool.get("function") if isinstance(tool, dict) else None
    return function.get("name") if isinstance(function, dict) else None


def _add(call: dict[str, Any], part: Mapping[str, Any]) -> None:
    """What comes of a call, a piece at a time."""
    call["id"] = part.get("id") or call["id"]
    made, told = call["function"], part.get("function") or {}
    for name in ("name", "arguments"):
        made[name] = made.get(name, "") + (told.get(name) or "")
