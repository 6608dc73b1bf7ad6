"""What a request's body says, where a route or an alias has to know: what was asked, and by whom. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lb.protocol.messages import Request

#: Characters of a conversation's beginning that tell it from others.
_BEGINNING = 4096


def fields(request: Request) -> dict[str, Any]:
    """Of a body that is no JSON object, or is still coming, none."""
    try:
        said = {} if request.upload is not None else json.loads(request.body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def last_user_text(said: Mapping[str, Any]) -> str:
    """The last message of a user, or the prompt, or the input; empty where it has no text."""
    turns = said.get("messages", said.get("input", said.get("prompt")))
    if isinstance(turns, list):
        if any(isinstance(turn, dict) for turn in turns):
            users = (t for t in reversed(turns) if isinstance(t, dict) and t.get("role") == "user")
            return _text(next(users, {}).get("content"))
        turns = next((turn for turn in reversed(turns) if isinstance(turn, str)), "")  # several prompts
    return turns if isinstance(turns, str) else ""


def asker(said: Mapping[str, Any]) -> str:
    """The same for all requests of one user or, where none is named, of one conversation; empty where neither is."""
    user, more = said.get("user") or said.get("safety_identifier"), said.get("metadata")
    user = user or (more.get("user_id") if isinstance(more, dict) else None)  # Anthropic's
    if isinstance(user, str):
        return f"user\0{user}"
    if isinstance(key := said.get("prompt_cache_key"), str):
        return f"conversation\0{key}"
    turns = said.get("messages", said.get("input", said.get("prompt")))
    if isinstance(turns, list):
        first = next((n for n, t in enumerate(turns) if isinstance(t, dict) and t.get("role") == "user"), len(turns))
        turns = list(turns[: first + 1])
    return "" if turns is None else json.dumps([said.get("system"), turns])[:_BEGINNING]


def _text(content: Any) -> str:
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""
