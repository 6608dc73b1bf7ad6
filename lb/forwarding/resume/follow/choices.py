"""What chats and completions have in common: events of choices, a last one with usage, and ``[DONE]``. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lb.forwarding.resume import events, obstacles
from lb.forwarding.resume.follow.atoms import Event, ItemsAtom, MarkAtom, StreamOver, Take, json_key, rest_of_items
from lb.forwarding.resume.follow.follower import Differs

#: What all events of a stream have in common.
_COMMON = ("id", "object", "created", "model")

#: Keys whose values are names that workers make up.
_NAMES = frozenset({"id", "item_id", "call_id"})


class ChoiceGrammar:
    """``choices``: so many the answer has; ``usage``: it ends with an event that tells it. Each field of a choice is a
    lane of its own: what of several fields stands in one event is the server's doing."""

    straight = b'"finish_reason":null'

    def __init__(self, choices: int = 1, usage: bool = False) -> None:
        self._choices, self._usage = choices, usage
        self._first: Event = {}
        self._over: set[object] = set()
        self._usage_sent = self.started = False

    @property
    def has_finished(self) -> bool:
        """Whether all choices have come to their end."""
        return len(self._over) >= self._choices

    @property
    def ended(self) -> bool:
        return self.has_finished and (self._usage_sent or not self._usage)

    def walk(self, event: Event, take: Take) -> Event | None:
        choices = event["choices"]
        if not choices:
            return event
        left = [made for choice in choices if (made := self._choice(choice, take)) is not None]
        return {**event, "choices": left} if left else None

    def _choice(self, choice: Event, take: Take) -> Event | None:
        raise NotImplementedError

    def check(self, event: Event) -> None:
        if "error" in event:
            error = event["error"]
            raise StreamOver(str(error.get("message") if isinstance(error, dict) else error), error)
        if any(choice.get("finish_reason") in ("abort", "error") for choice in event["choices"]):
            raise StreamOver("it gave the request up")
        if not event["choices"] and event.get("usage") is not None and not self.started and not self._first:
            raise StreamOver("it ended without having finished")

    def says(self, event: Event) -> bool:
        """Whether something of the answer itself is in it."""
        return any(obstacles.says(choice) or choice.get("logprobs") for choice in event["choices"])

    def note(self, event: Event) -> None:
        if not self._first:
            self._first = {key: event[key] for key in _COMMON if key in event}
        self.started = self.started or self.says(event)
        for choice in event["choices"]:
            if choice.get("finish_reason") is not None:
                self._over.add(choice.get("index", 0))
        if not event["choices"] and event.get("usage") is not None:
            self._usage_sent = True

    def adopt(self, event: Event, ids: dict[str, str]) -> Event:
        if any(choice.get("index", 0) in self._over for choice in event["choices"]):
            raise Differs("another worker went on where the answer had ended")
        return {**(renamed(event, ids) if ids else event), **self._first}

    def dump(self, event: Event) -> bytes:
        return events.dump(event)

    def finish(self) -> bytes:
        return events.DONE


def finish(choice: Event, take: Take) -> bool:
    """Whether the end of a choice stands in it that the client has not had."""
    if choice.get("finish_reason") is None:
        return False
    what = choice["finish_reason"], json_key(choice.get("stop_reason"))
    index = choice.get("index", 0)
    return take(MarkAtom((index, "finish"), what, closes=index)) is not None


def ids(choice: Event, take: Take) -> list[int]:
    """Those of tokens that the client has asked for and not had."""
    found: Sequence[int] = choice.get("token_ids") or ()
    if not found:
        return []
    lane = choice.get("index", 0), "token_ids"
    return rest_of_items(take(ItemsAtom(lane, "token_ids", tuple(found))), list(found))


def renamed(value: Any, ids: dict[str, str]) -> Any:
    """A JSON value with the names that the client knows."""
    if isinstance(value, dict):
        return {
            key: ids.get(item, item) if key in _NAMES and isinstance(item, str) else renamed(item, ids)
            for key, item in value.items()
        }
    return [renamed(item, ids) for item in value] if isinstance(value, list) else value
