"""The tokens of one stream, as ids: of its prompt, and those that were made, over all its workers. Pure.

They are written down a few events at a time: the record of the request (`lb.telemetry.model_metrics.Meter`) has the
latest events by reference anyway.
"""

from __future__ import annotations

from collections.abc import Sequence

from lb.forwarding.resume import events
from lb.forwarding.resume.point import CannotResume
from lb.telemetry.model_metrics import Meter

#: Pieces of the record that are put together.
_MOST_PIECES = 64


class MadeTokens:
    """``meter`` has the latest events. ``prompt_ids``: digits with commas between them, None where no worker told.
    ``base`` tokens had been made before the worker of now; ``once_more``: those after them, which it makes again."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._written: list[bytes] = []  # digits with commas between them
        self.prompt_ids: bytes | None = None
        self.base = 0
        self.once_more: list[int] = []

    @property
    def none_written(self) -> bool:
        """All that were made are in the latest events."""
        return not self._written

    def write(self, ids: list[bytes]) -> None:
        """Those of events that leave the record."""
        self._written += ids
        if len(self._written) > _MOST_PIECES:
            self._written = [b",".join(self._written)]

    def begin_at(self, kept: int, made: Sequence[int]) -> None:
        """Of all that were ``made`` so many stand, and those behind them are made again."""
        text = b",".join(b"%d" % token for token in made[:kept])
        self._written = [text] if text else []
        self.base, self.once_more = kept, list(made[kept:])

    def start_over(self) -> None:
        self._written, self.base, self.once_more = [], 0, []

    def count(self) -> int:
        """How many were made, if that is known."""
        ids = [*self._written, *events.ids(b"".join(self._meter.recent()))]
        return len(ids) + sum(some.count(b",") for some in ids)

    def all(self) -> list[int]:
        """All that were made."""
        text = b",".join([*self._written, *events.ids(b"".join(self._meter.recent()))])
        made = [int(digits) for digits in text.split(b",")] if text else []
        return made + self.once_more[len(made) - self.base :]

    def prompt(self) -> list[int]:
        """Raises CannotResume."""
        if self.prompt_ids is None:
            raise CannotResume("its worker did not tell the tokens of its prompt")
        return [int(digits) for digits in self.prompt_ids.split(b",")] if self.prompt_ids else []

    @property
    def in_prompt(self) -> int | None:
        """How many tokens the prompt has, if its worker told."""
        ids = self.prompt_ids
        return None if ids is None else ids.count(b",") + bool(ids)
