"""What of an answer its caller has not taken yet."""

from __future__ import annotations

import asyncio
from collections import deque

from lb.rpc.answer import TextDelta


class Outbox:
    """``size``: bytes that wait, the one under way included; ``taken``: those that have gone out."""

    def __init__(self) -> None:
        self.size = self.taken = 0
        self._waiting: deque[TextDelta] = deque()
        self._news = asyncio.Event()
        self._ended = False

    def put(self, delta: TextDelta) -> None:
        self._waiting.append(delta)
        self.size += delta.size
        self._news.set()

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        self._news.set()

    def drop(self) -> None:
        """Nothing that waits is to go out."""
        self.size -= sum(delta.size for delta in self._waiting)
        self._waiting.clear()
        self.end()

    async def next(self) -> TextDelta | None:
        """The oldest, as soon as there is one; None behind the last."""
        while not self._waiting:
            if self._ended:
                return None
            self._news.clear()
            await self._news.wait()
        return self._waiting.popleft()

    def sent(self, delta: TextDelta) -> None:
        """It is taken."""
        self.size -= delta.size
        self.taken += delta.size
