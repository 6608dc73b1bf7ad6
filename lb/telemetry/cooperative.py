"""Long work in the request loop, a little in each turn: a thread would do it no faster, and make every turn of the loop
wait for the interpreter (up to 5 ms) as long as it runs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from typing import TypeVar

_T = TypeVar("_T")

#: Seconds of one turn.
_TURN_S = 0.001


async def cooperatively(steps: Generator[None, None, _T]) -> _T:
    """Runs ``steps`` to their end and returns what they return; whatever else is due gets its turn each millisecond."""
    end = time.perf_counter() + _TURN_S
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        if time.perf_counter() >= end:
            await asyncio.sleep(0)
            end = time.perf_counter() + _TURN_S
