"""Events of `/v1/chat/completions`. Pure."""

from __future__ import annotations

from typing import Any

from lb.forwarding.resume.follow import choices
from lb.forwarding.resume.follow.atoms import (
    Event,
    ItemsAtom,
    MarkAtom,
    Take,
    TextAtom,
    json_key,
    rest_of_items,
    rest_of_text,
)
from lb.forwarding.resume.follow.choices import ChoiceGrammar


class ChatGrammar(ChoiceGrammar):
    """Who speaks is said once for each choice; some servers repeat it with each event, however many those are."""

    def __init__(self, choices: int = 1, usage: bool = False) -> None:
        super().__init__(choices, usage)
        self._roles: set[object] = set()

    def note(self, event: Event) -> None:
        super().note(event)
        self._roles.update(
            choice.get("index", 0) for choice in event["choices"] if (choice.get("delta") or {}).get("role")
        )

    def _choice(self, choice: Event, take: Take) -> Event | None:
        index, delta = choice.get("index", 0), choice.get("delta") or {}
        left = {
            key: rest for key, value in delta.items()
            if value and (key != "role" or index not in self._roles) and (rest := _field(index, key, value, take))
        }  # fmt: skip
        logprobs, ids = _logprobs(index, choice.get("logprobs"), take), choices.ids(choice, take)
        ends = choices.finish(choice, take)
        if not (left or logprobs or ids or ends):
            return None
        made = {**choice, "delta": left}
        if choice.get("logprobs"):
            made["logprobs"] = {**choice["logprobs"], "content": logprobs} if logprobs else None
        if choice.get("token_ids") is not None:
            made["token_ids"] = ids
        return made


def _field(index: int, key: str, value: Any, take: Take) -> Any:
    """What is left of one of a delta's; nothing: something that is not true."""
    lane = index, key
    if key == "tool_calls":
        calls = (_call(index, at, call, take) for at, call in enumerate(value))
        return [call for call in calls if call is not None]
    if key == "role":
        return value
    if isinstance(value, str):
        return rest_of_text(take(TextAtom(lane, key, value)))
    return value if take(MarkAtom(lane, json_key(value))) is not None else None


def _call(index: int, at: int, call: Event, take: Take) -> Event | None:
    """What is left of a piece of one call of a tool."""
    number, function = call.get("index", at), call.get("function") or {}
    begins = bool(function.get("name")) and take(
        MarkAtom((index, "tool", number), function["name"], (str(call.get("id")),))
    ) is not None
    rest = ""
    if function.get("arguments"):
        rest = rest_of_text(take(TextAtom((index, "arguments", number), "arguments", function["arguments"])))
    if begins:
        return {**call, "function": {**function, "arguments": rest}}
    return {"index": number, "function": {"arguments": rest}} if rest else None


def _logprobs(index: int, found: Event | None, take: Take) -> list[Any]:
    entries = (found or {}).get("content") or []
    if not entries:
        return []
    tokens = tuple(entry["token"] for entry in entries)
    return rest_of_items(take(ItemsAtom((index, "logprobs"), "logprobs", tokens)), entries)
