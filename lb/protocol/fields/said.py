"""What a request's body says, where a route or an alias has to know: what was asked, and by whom. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lb.protocol.body import user_at_end
from lb.protocol.messages import Request

_DECODE, _ENCODE = json.JSONDecoder().raw_decode, json.JSONEncoder(check_circular=False).encode

#: Of JSON.
_BLANKS = " \t\n\r"

#: Characters of a conversation's beginning that tell it from others.
_BEGINNING = 4096


def fields(request: Request) -> dict[str, Any]:
    """Of a body that is no JSON object, or is still coming, none."""
    body = request.body
    try:
        if request.upload is not None:
            said: object = {}
        elif body.startswith(b"{") and b"\0" not in body:
            text = body.decode("utf-8", "surrogatepass")
            said, end = _DECODE(text)  # the same, without asking which encoding it is
            if end < len(text) and text[end:].strip(_BLANKS):
                return {}
        else:
            said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def user(request: Request) -> str | None:
    """The same as `asker`, where that is found without parsing the body; None: parsing will tell."""
    name = None if request.upload is not None else user_at_end(request.body)
    return None if name is None else f"user\0{name}"


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
    user = said.get("user") or said.get("safety_identifier")
    if not user:
        user = more.get("user_id") if isinstance(more := said.get("metadata"), dict) else None  # Anthropic's
    if isinstance(user, str):
        return f"user\0{user}"
    if isinstance(key := said.get("prompt_cache_key"), str):
        return f"conversation\0{key}"
    turns = said.get("messages", said.get("input", said.get("prompt")))
    return "" if turns is None else _ENCODE([said.get("system"), _opening(turns)])[:_BEGINNING]


def _opening(turns: Any) -> Any:
    """Up to the first message of a user; all, where there is none."""
    if isinstance(turns, list):
        for number, turn in enumerate(turns, 1):
            if isinstance(turn, dict) and turn.get("role") == "user":
                return turns[:number]
    return turns


def _text(content: Any) -> str:
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "\n".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""
