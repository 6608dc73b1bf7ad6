"""What a change can fail with, for whoever asked for it."""

from __future__ import annotations

#: Characters of a refusal: it may quote what it refuses.
LONGEST = 1000


class Refused(Exception):
    """A change that is not made; ``status`` is the HTTP status that says why."""

    def __init__(self, status: int, message: str, param: str | None = None) -> None:
        super().__init__(message if len(message) <= LONGEST else f"{message[:LONGEST]}…")
        self.status, self.param = status, param and param[:LONGEST]
