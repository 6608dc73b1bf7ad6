"""The supervisor's events for whoever listens: `GET /v1/cluster/events` as server-sent events, or the latest as JSON.

The events lie here once; a listener is no more than the id of the last one it was sent. One that takes too long is
dropped, and finds its place again by that id. A stream outlives the supervisor: it goes on with the next one's events.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from aiohttp import web

from lb.protocol.errors import ProxyError, Source
from lb.routing.notifier import Notifier

#: Events that are kept, as many as the supervisor keeps.
KEPT = 1000

#: Events that a listener who names no last one is sent first, and that are in a list.
_DEFAULT = 100

#: Seconds without an event after which a listener is sent a comment, so that everybody on the way sees it live.
HEARTBEAT = 15.0

#: Seconds that a listener may take to read what it was sent.
_SLOW = 30.0

_LISTENERS = 512
_BATCH = 100


#: Headers of a stream of events.
STREAM = {
    "Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store", "X-Accel-Buffering": "no",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Kept:
    id: int
    event: Mapping[str, Any]
    frame: bytes


class EventFeed:
    """What the supervisor said happened."""

    def __init__(self, heartbeat: float = HEARTBEAT, slow: float = _SLOW) -> None:
        self._kept: deque[_Kept] = deque(maxlen=KEPT)
        self._fresh = Notifier()
        self._heartbeat, self._slow = heartbeat, slow
        self._closed = False
        self.listeners = 0

    def add(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Those that are not known yet; ids rise."""
        last = self._kept[-1].id if self._kept else 0
        new = [event for event in events if event["id"] > last]
        self._kept.extend(_Kept(event["id"], event, _frame(event)) for event in new)
        if new:
            self._fresh.notify()

    @property
    def closed(self) -> bool:
        return self._closed

    def changed(self) -> asyncio.Future[None]:
        """Done when there is a new event, or when all streams are to end."""
        return self._fresh.next()

    def close(self) -> None:
        """Ends all streams: this balancer is about to end."""
        self._closed = True
        self._fresh.notify()

    def after(self, since: int, most: int = KEPT) -> list[_Kept]:
        """The first ``most`` of those with a higher id."""
        behind = 0
        for kept in reversed(self._kept):
            if kept.id <= since:
                break
            behind += 1
        start = len(self._kept) - behind
        return list(islice(self._kept, start, min(start + most, len(self._kept))))

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Raises ProxyError for what is no number, and where there are too many listeners."""
        asked, limit = _number("since", request.query.get("since")), _number("limit", request.query.get("limit"))
        seen = _number("Last-Event-ID", request.headers.get("Last-Event-ID"))
        # A browser that connects again sends the URL it was given, and how far it has come since.
        since = max((number for number in (asked, seen) if number is not None), default=None)
        if since is None:
            kept = list(self._kept)
            first = len(kept) - min(_DEFAULT if limit is None else limit, len(kept))
            since = kept[first - 1].id if first else 0
        if "text/event-stream" not in request.headers.get("Accept", ""):
            found = self.after(since, KEPT if limit is None else limit)
            return web.json_response({"events": [kept.event for kept in found]})
        if self.listeners >= _LISTENERS:
            raise ProxyError(503, f"{_LISTENERS} listen already", source=Source.INTERNAL, retry_after=5)
        self.listeners += 1
        try:
            return await self._stream(request, since)
        finally:
            self.listeners -= 1

    async def _stream(self, request: web.Request, since: int) -> web.StreamResponse:
        response = web.StreamResponse(headers=STREAM)
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        frame = b"retry: 1000\n: events\n\n"
        while True:
            try:
                async with asyncio.timeout(self._slow):
                    await response.write(frame)
            except TimeoutError:
                if request.transport is not None:
                    request.transport.abort()
                return response
            if self._closed:
                return response
            fresh = self._fresh.next()  # before the look, so that nothing comes in between
            if found := self.after(since, _BATCH):
                fresh.cancel()
                since, frame = found[-1].id, b"".join(kept.frame for kept in found)
                continue
            frame = b": still here\n\n"
            try:
                async with asyncio.timeout(self._heartbeat):
                    await fresh
            except TimeoutError:
                continue
            frame = b""


def _frame(event: Mapping[str, Any]) -> bytes:
    return f"id: {event['id']}\nevent: {event['kind']}\ndata: {json.dumps(event)}\n\n".encode()


def _number(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise ProxyError(400, f"{name}: a whole number is needed, not {text[:100]!r}", param=name)
    return int(text)
