"""Events of `/v1/messages`, which is Anthropic's: one lane, as they are in order. Pure."""

from __future__ import annotations

from typing import Any

from lb.forwarding.resume import events
from lb.forwarding.resume.follow.atoms import Event, MarkAtom, StreamOver, Take, TextAtom, json_key, rest_of_text
from lb.forwarding.resume.follow.choices import renamed

#: Where the text of a delta stands, by its type.
_TEXT = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
_LANE = "message"
_STOP: Event = {"type": "message_stop"}


class MessageGrammar:
    straight = b"content_block_delta\ndata: {"

    def __init__(self) -> None:
        self.started = self.ended = self._stopped = False

    @property
    def has_finished(self) -> bool:
        return self.ended

    def walk(self, event: Event, take: Take) -> Event | None:
        kind, index = event["type"], event.get("index")
        if kind == "ping":
            return event
        if kind == "content_block_delta":
            delta = event["delta"]
            key = _TEXT.get(delta["type"])
            if key is not None:
                rest = rest_of_text(take(TextAtom(_LANE, (index, key), delta[key]))) if delta.get(key) else ""
                return {**event, "delta": {**delta, key: rest}} if rest else None
        return event if take(MarkAtom(_LANE, _what(event), _ids(event))) is not None else None

    def check(self, event: Event) -> None:
        kind = event["type"]
        if kind == "error":
            error = event.get("error")
            raise StreamOver(str(error.get("message") if isinstance(error, dict) else error), error)
        if kind == "message_delta" and event["delta"].get("stop_reason") is None:
            raise StreamOver("it gave the request up")  # as vLLM's finish_reason `abort` reads here

    def says(self, event: Event) -> bool:
        """Whether something of the answer itself is in it."""
        return bool(event["type"].startswith("content_block"))

    def note(self, event: Event) -> None:
        self.started = self.started or self.says(event)
        self.ended = self.ended or event["type"] == "message_delta"
        self._stopped = self._stopped or event["type"] == "message_stop"

    def adopt(self, event: Event, ids: dict[str, str]) -> Event:
        made: Event = renamed(event, ids) if ids else event
        return made

    def dump(self, event: Event) -> bytes:
        return b"event: %b\n%b" % (str(event["type"]).encode(), events.dump(event))

    def finish(self) -> bytes:
        return b"" if self._stopped else self.dump(_STOP)


def _what(event: Event) -> Any:
    """What has to be the same again."""
    kind, index = event["type"], event.get("index")
    if kind == "content_block_start":
        block = event["content_block"]
        return kind, index, block["type"], block.get("name")
    if kind == "message_delta":
        return kind, json_key(event["delta"])
    if kind == "content_block_delta":
        # A signature is another one each time; whatever else there is has to be the same.
        delta = event["delta"]
        return kind, index, delta["type"], None if delta["type"] == "signature_delta" else json_key(delta)
    return kind, index


def _ids(event: Event) -> tuple[str, ...]:
    named = event.get("message") or event.get("content_block") or {}
    return (str(named["id"]),) if named.get("id") else ()
