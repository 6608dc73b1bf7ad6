"""The answer of `POST /v1/chat/{route}`, read back out of the bytes that a client of HTTP/1.0 is sent. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass

from lb.forwarding.resume import events
from lb.rpc import metadata
from lb.rpc.codes import BROKEN, CallFailure, failure

#: Bytes of an answer that is an error: what is beyond them says nothing.
_MOST_KEPT = 64 * 1024


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str
    finished: bool

    @property
    def size(self) -> int:
        """Bytes that it takes while it waits, about."""
        return 100 + 4 * len(self.text)


class ChatAnswer:
    """``fields``: those of its head that a caller is told; None while there is none. ``complete``: its last delta has
    come."""

    def __init__(self) -> None:
        self.fields: list[tuple[str, str]] | None = None
        self.complete = False
        self._status = 0
        self._streams = False
        self._rest = b""
        self._broken: str | None = None

    def feed(self, data: bytes) -> list[TextDelta]:
        """What has come of the text."""
        if self.fields is None:
            head, _, data = data.partition(b"\r\n\r\n")
            self._status, self.fields = int(head.split(b" ", 2)[1]), metadata.told(head)
            self._streams = self._status == 200 and b"text/event-stream" in head
        if not self._streams:
            self._rest = (self._rest + data)[:_MOST_KEPT]
            return []
        whole, self._rest = events.split(self._rest + data)
        return [delta for event in whole if (delta := self._read(event)) is not None]

    def _read(self, event: bytes) -> TextDelta | None:
        made = events.parse(event)
        if made is None:
            return None
        if "error" in made:
            self._broken = _message(made)
            return None
        self.complete = bool(made["finished"])
        return TextDelta(made["text_delta"], self.complete)

    def failure(self) -> CallFailure | None:
        """Why it is no answer, at its end; None: it is one."""
        if self._streams:
            if self._broken is not None:
                return failure(502, self._broken)
            return None if self.complete else BROKEN
        if not self._status:
            return BROKEN
        try:
            said = _message(json.loads(self._rest))
        except (ValueError, RecursionError):
            said = ""
        return failure(self._status if self._status >= 400 else 502, said or f"the worker answered {self._status}")


def _message(made: object) -> str:
    error = made.get("error", made) if isinstance(made, dict) else None
    said = error.get("message") if isinstance(error, dict) else error
    return said if isinstance(said, str) else ""
