"""What happens, in the order in which it is reported: the one task that owns the state runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

Event = Callable[[], None]


class Inbox:
    def __init__(self) -> None:
        self._events: asyncio.Queue[Event] = asyncio.Queue()

    def post(self, event: Event) -> None:
        self._events.put_nowait(event)

    def wake(self) -> None:
        """Looks whether there is something to publish."""
        self.post(lambda: None)

    async def run(self, patience: float) -> None:
        """All that has come, or comes within so many seconds."""
        try:
            async with asyncio.timeout(patience):
                event = await self._events.get()
        except TimeoutError:
            return
        event()
        while not self._events.empty():
            self._events.get_nowait()()
