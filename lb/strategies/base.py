"""What a strategy is. Pure: no I/O, no clock, no logging; randomness is handed in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from lb.backend import Backend


@dataclass(slots=True)
class RequestInfo:
    """What a strategy may know of a request."""

    model: str | None = None
    path: str = ""


class Strategy(Protocol):
    def choose(self, candidates: Sequence[Backend], request: RequestInfo) -> Backend:
        """One of ``candidates``: at least one, all available, in a steady order."""


class Factory(Protocol):
    def __call__(self, random: Random) -> Strategy: ...
