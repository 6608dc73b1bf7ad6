"""How many requests a worker computes at a time without being slower than a goal, learnt from what workers tell of
themselves: requests that run, and tokens made since their start. Pure: the time is handed in.

A request gets a token every ``requests that run x s / tokens made in these``, whatever kind of requests they are, with
what prompts and adapters between its tokens cost it. Least squares of that against the batch say where it reaches the
goal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

#: Seconds of one worker whose tokens are counted together: a reading is up to half a second old.
_WINDOW = 5.0

#: With fewer tokens in these nothing is said.
_FEW = 5

#: A pace is not taken for more than so many times the goal: it stood still for other reasons.
_MOST = 10.0

#: What of the past counts when a window is added: the weight of the last two thousand, of four
#: workers some forty minutes.
_KEPT = 0.9995

#: That a token takes the goal's part of a batch's part of what the settings name counts as seen in so many windows as
#: far from the mean as that.
_PRIOR = 1.0

#: Of the batch at which the goal is reached, as a load moves faster than workers come.
_HEADROOM = 0.7

#: Never less than this part of what the settings name, nor more than so many times it.
_LEAST, _LARGEST = 0.25, 4.0


@dataclass(frozen=True, slots=True)
class EngineReading:
    """Of one incarnation of a worker: requests that ``running`` tells, ``tokens`` made since its start."""

    running: int
    tokens: int


class PaceModel:
    """``s a token = a + b x batch`` by least squares with forgetting."""

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    def observe(self, batch: float, seconds: float) -> None:
        """So many ``seconds`` a token with so many requests at a time."""
        self._n = self._n * _KEPT + 1.0
        self._x = self._x * _KEPT + batch
        self._y = self._y * _KEPT + seconds
        self._xx = self._xx * _KEPT + batch * batch
        self._xy = self._xy * _KEPT + batch * seconds

    @property
    def seen(self) -> bool:
        return self._n > 0.0

    def carried(self, goal: float, named: float) -> float:
        """Requests at a time with which a token takes ``goal`` seconds; before anything was seen ``named``, and also
        where nothing says that it would take less with fewer. More than 0, maybe infinity."""
        n = max(1.0, self._n)
        x, y, prior = self._x / n, self._y / n, _PRIOR * named * named
        spread, joint = max(0.0, self._xx - n * x * x), self._xy - n * x * y
        expected, own = (joint + prior * goal / named) / (spread + prior), joint / spread if spread else 0.0
        if expected <= 0.0 and y < goal:
            return math.inf
        for slope in (expected, own):  # the first is too flat where all that was seen is slower than expected
            if slope > 0.0 and (found := x + (goal - y) / slope) > 0.0:
                return found
        return named


@dataclass(slots=True)
class _Window:
    """Since ``began`` (s), when so many ``tokens`` had been made: ``seconds`` of requests, and of these squared."""

    began: float
    at: float
    tokens: int
    seconds: float = 0.0
    squared: float = 0.0


class GroupPace:
    """Of the workers of one group, which compute the same model. ``goal``: s a token."""

    def __init__(self) -> None:
        self._model = PaceModel()
        self._windows: dict[tuple[str, int], _Window] = {}

    @property
    def learnt(self) -> bool:
        """Whether anything has been seen yet."""
        return self._model.seen

    def saw(self, readings: Mapping[tuple[str, int], EngineReading], goal: float, now: float) -> None:
        """What each (id, incarnation) says now. ``now``: s, monotonic."""
        self._windows = {key: kept for key, kept in self._windows.items() if key in readings}
        for key, reading in readings.items():
            window = self._windows.setdefault(key, _Window(now, now, reading.tokens))
            passed = now - window.at
            window.seconds += reading.running * passed
            window.squared += reading.running * reading.running * passed
            window.at = now
            if now - window.began >= _WINDOW:
                self._end(window, reading.tokens - window.tokens, goal)
                self._windows[key] = _Window(now, now, reading.tokens)

    def _end(self, window: _Window, tokens: int, goal: float) -> None:
        if tokens >= _FEW and window.seconds > 0.0:
            pace = min(_MOST * goal, window.seconds / tokens)
            self._model.observe(window.squared / window.seconds, pace)

    def each(self, goal: float, named: float, seats: int) -> float:
        """Requests with which a worker is busy enough; ``named``: what the settings say, ``seats`` at the most."""
        if not self.learnt:
            return named
        learnt = _HEADROOM * self._model.carried(goal, named / _HEADROOM)
        return min(max(1.0, _LEAST * named, learnt), _LARGEST * named, max(named, float(seats)))
