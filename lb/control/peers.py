"""What the balancer processes of one cluster know of each other: what each has in flight, and its series. There may be
several at any time: one that was replaced finishes what it has beside its successor.

They find each other in the state directory; no process needs to be told which others there are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from config.aio import Tasks
from config.link import LINE_LIMIT, encode, messages
from config.paths import short_socket_path
from lb.telemetry.shared_counters import Counters

log = logging.getLogger(__name__)

#: Seconds between two looks for processes that came or died.
_LOOK_EVERY = 0.25

#: One that does not tell its series in this time (s) is left out.
_ANSWER_S = 0.5


class Peers:
    """``link`` is this process' own socket; ``looked`` is called each time when the counters were looked at."""

    def __init__(self, counters: Counters, link: Path, looked: Callable[[], None] = lambda: None) -> None:
        self._counters, self._link, self._looked = counters, link, looked
        self._tasks = Tasks()

    def start(self) -> None:
        self._tasks.start(self._look(), "look for the other balancers")

    async def close(self) -> None:
        await self._tasks.close()

    async def expositions(self) -> list[str]:
        """The series of each of the others that answers in time."""
        return [str(answer["text"]) for answer in await self.ask({"type": "metrics"}) if "text" in answer]

    async def ask(self, question: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What each of the others answers to ``question``: a message of the same type, if it does so in time."""
        links = [path for path in self._link.parent.glob("lb-*.sock") if path.name != self._link.name]
        answers = await asyncio.gather(*(_ask(link, question) for link in links))
        return [answer for answer in answers if answer is not None]

    async def _look(self) -> None:
        while True:
            try:
                self._counters.refresh()
                self._looked()
            except OSError as error:
                log.warning("the other balancers' counts: %s", error)
            await asyncio.sleep(_LOOK_EVERY)


async def _ask(link: Path, question: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        async with asyncio.timeout(_ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(short_socket_path(link), limit=LINE_LIMIT)
            try:
                writer.write(encode(question))
                async for message in messages(reader):
                    if message["type"] == question["type"]:
                        return message
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError, KeyError):
        pass  # it died and left its socket behind, hangs, or is no balancer of ours
    return None
