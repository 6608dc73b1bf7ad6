"""Adapters as they come to an agent: offered, sent a file at a time, kept once all is there and is what was offered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any
from weakref import WeakValueDictionary

from aiohttp import web

from worker.agent.cache import AdapterCache
from worker.drivers.remote.offers import OFFSET, read_offer

#: Bytes that are written at once, and how long (s) nothing may come of a file that is being sent.
_PIECE, _STALL_S = 1024 * 1024, 20.0


class AdapterUploads:
    """``living()``: the starts of which something runs; blocks."""

    def __init__(self, cache: AdapterCache, living: Callable[[], Collection[str]]) -> None:
        self._cache, self._living = cache, living
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    @property
    def folder(self) -> str:
        """Where they are kept."""
        return str(self._cache.folder)

    async def offer(self, message: dict[str, Any]) -> dict[str, Any]:
        """Raises ValueError, OSError."""
        offer = read_offer(message)
        async with self._one_at_a_time(offer.content):
            living = await asyncio.to_thread(self._living)
            answer = await asyncio.to_thread(self._cache.offer, offer, living)
            if answer.folder is None and await asyncio.to_thread(self._cache.finish, offer.content):
                answer = await asyncio.to_thread(self._cache.offer, offer, living)
            return answer.to_json()

    async def receive(self, request: web.Request) -> dict[str, Any]:
        """Raises ValueError, OSError."""
        content, name = request.match_info["content"], request.match_info["name"]
        offset = int(request.query.get(OFFSET, "0"))
        async with self._one_at_a_time(content):
            while data := await _piece(request):
                await asyncio.to_thread(self._cache.append, content, name, offset, data)
                offset += len(data)
        return {}

    def _one_at_a_time(self, content: str) -> asyncio.Lock:
        return self._locks.setdefault(content, asyncio.Lock())


async def _piece(request: web.Request) -> bytes:
    """The next of the body; nothing at its end. Raises TimeoutError."""
    data = bytearray()
    async with asyncio.timeout(_STALL_S):
        while len(data) < _PIECE and (more := await request.content.readany()):
            data += more
    return bytes(data)
