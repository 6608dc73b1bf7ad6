"""What a strategy is. Pure: no I/O, no clock, no logging; randomness is handed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from lb.backend import Backend


@dataclass(slots=True)
class RequestInfo:
    """What a strategy may know of a request. ``root``: the version of the model that it has to be, as its card names
    it; None: any."""

    model: str | None = None
    path: str = ""
    root: str | None = None


class Strategy(Protocol):
    def choose(self, candidates: Sequence[Backend], request: RequestInfo) -> Backend:
        """One of ``candidates``: at least one, all available, in a steady order."""


class Factory(Protocol):
    def __call__(self, random: Random) -> Strategy: ...
