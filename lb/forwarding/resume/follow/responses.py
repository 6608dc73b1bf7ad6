"""Events of `/v1/responses`: one lane, as they are in order, and a number on each. Pure."""

from __future__ import annotations

import re
from typing import Any

from lb.forwarding.resume import events
from lb.forwarding.resume.follow import atoms
from lb.forwarding.resume.follow.atoms import Event, ItemsAtom, MarkAtom, StreamOver, Take, TextAtom
from lb.forwarding.resume.follow.choices import renamed

_LANE = "response"
_LAST = frozenset({"response.completed", "response.incomplete"})
_BEFORE = frozenset({"response.created", "response.in_progress", "response.queued"})

#: Of an event, what of it has to be the same again, and where names stand.
_SAME = ("output_index", "content_index", "summary_index", "text", "arguments", "input", "name")
_ID = re.compile(r"resp_[A-Za-z0-9_-]{1,128}")


class ResponseGrammar:
    straight = b".delta\ndata: {"

    def __init__(self) -> None:
        self.started = self.ended = False
        self._number = -1
        self._first: Event = {}

    @property
    def has_finished(self) -> bool:
        return self.ended

    @property
    def response(self) -> str | None:
        """The id that the client knows."""
        known = self._first.get("id")
        return known if isinstance(known, str) and _ID.fullmatch(known) else None

    def walk(self, event: Event, take: Take) -> Event | None:
        kind, delta = str(event["type"]), event.get("delta")
        if kind.endswith(".delta") and isinstance(delta, str):
            place = kind, event.get("output_index"), event.get("content_index"), event.get("summary_index")
            rest = atoms.rest_of_text(take(TextAtom(_LANE, place, delta))) if delta else ""
            found = event.get("logprobs") or []
            tokens = tuple(entry["token"] for entry in found)
            logprobs = atoms.rest_of_items(take(ItemsAtom(place, "logprobs", tokens)), found) if found else []
            if not rest and not logprobs:
                return None
            return {**event, "delta": rest, **({"logprobs": logprobs} if found else {})}
        return event if take(MarkAtom(_LANE, _what(event), _ids(event))) is not None else None

    def check(self, event: Event) -> None:
        kind, response = event["type"], event.get("response") or {}
        if kind in ("error", "response.failed"):
            error = event.get("error") or response.get("error") or event
            raise StreamOver(str(error.get("message") if isinstance(error, dict) else error), error)
        if kind in _LAST and response.get("status") in ("cancelled", "failed"):
            raise StreamOver("it gave the request up")

    def says(self, event: Event) -> bool:
        """Whether something of the answer itself is in it."""
        return event["type"] not in _BEFORE

    def note(self, event: Event) -> None:
        self.started = self.started or self.says(event)
        self.ended = self.ended or event["type"] in _LAST
        number = event.get("sequence_number")
        if isinstance(number, int):
            self._number = max(self._number, number)
        if not self._first and isinstance(event.get("response"), dict):
            self._first = {key: event["response"][key] for key in ("id", "created_at") if key in event["response"]}

    def adopt(self, event: Event, ids: dict[str, str]) -> Event:
        made: Event = renamed(event, ids) if ids else {**event}
        if "sequence_number" in made:
            made["sequence_number"] = self._number + 1
        if isinstance(made.get("response"), dict):
            made["response"] = {**made["response"], **self._first}
        return made

    def dump(self, event: Event) -> bytes:
        return b"event: %b\n%b" % (str(event["type"]).encode(), events.dump(event))

    def finish(self) -> bytes:
        return b""

    def latest(self) -> bytes:
        """What tells the number of the latest event."""
        return b'"sequence_number":%d' % self._number if self._number >= 0 else b""


def _what(event: Event) -> Any:
    """What has to be the same again: nothing of a whole response, which has times in it."""
    same = tuple(event.get(key) for key in _SAME)
    named = event.get("item") or event.get("part") or {}
    return event["type"], same, named.get("type"), named.get("name")


def _ids(event: Event) -> tuple[str, ...]:
    named = event.get("item") or event.get("response") or {}
    return tuple(str(each) for each in (event.get("item_id"), named.get("id"), named.get("call_id")) if each)
