"""A stream that its worker ended before it was finished, and what that says. Pure."""

from __future__ import annotations

from lb.protocol.failures import Failure
from lb.protocol.worker_errors import CLIENTS, is_engine_death


class StreamFailed(Exception):
    """The worker has ended the stream before it was finished. ``event``: in its own words, if it said something;
    ``final``: it is the client's fault, so no other worker is asked; else ``kind`` says what was wrong."""

    def __init__(
        self, reason: str, event: bytes = b"", final: bool = False, kind: Failure = Failure.BROKEN
    ) -> None:
        super().__init__(reason)
        self.event, self.final, self.kind = event, final, kind


def failure_of(error: object, event: bytes) -> StreamFailed:
    """Of a stream that ``event`` ends, with ``error`` in it."""
    said = error if isinstance(error, dict) else {}
    message, code = str(said.get("message") or error), said.get("code")
    final = said.get("type") in CLIENTS or (isinstance(code, int) and 400 <= code < 500 and code not in (408, 429))
    kind = Failure.ENGINE_DIED if is_engine_death(error) else Failure.BROKEN
    return StreamFailed(f"it ended the stream in an error: {message}", event + b"\n\n", final, kind)
