"""What the engine works on: a request's sequences, how fast it goes, and which prompts it has seen."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from worker.sim.engine.generate import Sequence
from worker.sim.errors import ApiError

_BLOCK = 16
_CACHE_BLOCKS = 1 << 16


@dataclass(frozen=True, slots=True)
class Timing:
    """How fast it is; seconds."""

    ttft_s: float
    itl_s: float


@dataclass(slots=True, eq=False)
class EngineRequest:
    """One request in the engine: its sequences go step by step together."""

    sequences: list[Sequence]
    prompts: list[list[int]]
    n: int
    model: str
    adapter: str | None = None
    rank: int = 0
    granted: bool = False
    aborted: bool = False
    error: ApiError | None = None
    waker: asyncio.Future[None] | None = None
    open: int = 0

    def wake(self) -> None:
        """Let it look at what has changed."""
        if self.waker is not None and not self.waker.done():
            self.waker.set_result(None)


class PrefixCache:
    """The prompts seen before, in blocks of tokens; the least recently used are forgotten first."""

    def __init__(self) -> None:
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def read(self, model: str, prompt: list[int]) -> int:
        """How many tokens of ``prompt`` were cached, whole blocks and never all of it; then caches it."""
        chain, hits, missed = hash(model), 0, False
        for start in range(0, len(prompt) - _BLOCK + 1, _BLOCK):
            chain = hash((chain, *prompt[start : start + _BLOCK]))
            missed = missed or chain not in self._blocks
            hits += 0 if missed or start + _BLOCK == len(prompt) else _BLOCK
            self._blocks[chain] = None
            self._blocks.move_to_end(chain)
        while len(self._blocks) > _CACHE_BLOCKS:
            self._blocks.popitem(last=False)
        return hits
