"""What a strategy is. Pure: no I/O, no clock, no logging; randomness is handed in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

from lb.routing.backend import Backend

#: One value a candidate, in their order; or by id, where a strategy looked at some of them only.
Scores = Sequence[float] | Mapping[str, float]


@dataclass
class RequestInfo:
    """What a strategy may know of a request. ``root``: the version of the model that it has to be, as its card names
    it; None: any.

    The rest is how it was routed, for `lb.records.decision_log`: ``choice`` says who could have taken the latest
    attempt, ``steps`` are the attempts that came to nothing, and ``notes`` is what observers keep with it until it is
    over."""

    model: str | None = None
    path: str = ""
    root: str | None = None
    id: str = ""
    # Not set with each request: most are over without the last two.
    choice: Choice | None = field(default=None, init=False)
    steps: tuple[Any, ...] = field(default=(), init=False)
    notes: Any = field(default=None, init=False)


class Strategy(Protocol):
    """``scores`` are kept by reference with each request, so that somebody can ask later why it went where it went: a
    strategy makes new ones for each choice, or none (None). ``rule`` says in words how it chooses, ``measure`` what the
    scores are."""

    name: str
    rule: str
    measure: str
    scores: Scores | None

    def choose(self, candidates: Sequence[Backend], request: RequestInfo) -> Backend:
        """One of ``candidates``: at least one, all available, in a steady order."""


#: The candidates, what chose among them (None where there was nothing to choose) and its scores.
Choice = tuple[Sequence[Backend], Strategy | None, Scores | None]


class Factory(Protocol):
    def __call__(self, random: Random) -> Strategy: ...
