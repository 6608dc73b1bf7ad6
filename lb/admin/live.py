"""What somebody looks at: `GET /v1/cluster/live` once a second as server-sent events, and `GET /v1/cluster/history`.

What is sent is made only while somebody listens, once for all of them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from aiohttp import web

from config.aio import Tasks
from config.identity.principal import PRINCIPAL_HEADER, Principal, Scope
from config.topology import AUTO_STRATEGY, STRATEGIES
from lb.admin.event_stream import STREAM, EventFeed
from lb.protocol.errors import ProxyError, Source
from lb.telemetry.history import SLOTS, STEP
from lb.telemetry.recorder import Recorder

#: What of the management API whoever listens may use, so that a page need not try.
MAY_HEADER = "X-Clusterctl-May"

#: Seconds between two messages.
_EVERY = 1.0

#: Seconds that a listener may take to read what it was sent.
_SLOW = 30.0

_LISTENERS = 128
_BEFORE = 200


class Live:
    """``status()`` is what `GET /v1/cluster/status` says, ``gpus()`` what the driver says of each GPU."""

    def __init__(
        self, status: Callable[[], dict[str, Any]], recorder: Recorder, events: EventFeed,
        gpus: Callable[[], list[dict[str, Any]]] = list,
    ) -> None:
        self._status, self._recorder, self._events, self._gpus = status, recorder, events, gpus
        self._making: asyncio.Task[bytes] | None = None
        self._made_at = 0.0
        self._tasks = Tasks()
        self.listeners = 0

    async def close(self) -> None:
        await self._tasks.close()

    async def history(self, request: web.Request) -> web.Response:
        """Raises ProxyError (400) for what is no number of seconds."""
        text, most = request.query.get("seconds", ""), (SLOTS - 1) * STEP
        if text and not (text.isascii() and text.isdigit() and len(text) < 10 and 0 < int(text) <= most):
            raise ProxyError(400, f"seconds: 1 to {most} is needed, not {text[:100]!r}", param="seconds")
        samples = await self._recorder.samples(int(text or most))
        return web.json_response({"step_s": STEP, "samples": samples}, headers={"Cache-Control": "no-store"})

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Raises ProxyError (503) where there are too many listeners."""
        if self.listeners >= _LISTENERS:
            raise ProxyError(503, f"{_LISTENERS} look already", source=Source.INTERNAL, retry_after=5)
        who = Principal.from_line(request.headers.get(PRINCIPAL_HEADER, ""))
        may = " ".join(scope for scope in Scope if who.may(scope))
        response = web.StreamResponse(headers={**STREAM, MAY_HEADER: may})
        await response.prepare(request)
        if request.method == "HEAD":
            return response
        self.listeners += 1
        try:
            await self._send(request, response)
        finally:
            self.listeners -= 1
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse) -> None:
        given = request.headers.get("Last-Event-ID", "")
        latest = self._events.after(0)[-_BEFORE:]
        since = int(given) if given.isascii() and given.isdigit() and len(given) < 19 else 0
        since = max(since, latest[0].id - 1) if latest else since
        while not self._events.closed:
            found = self._events.after(since)
            since = found[-1].id if found else since
            frame = await self._frame() + b"".join(kept.frame for kept in found)
            try:
                async with asyncio.timeout(_SLOW):
                    await response.write(frame)
            except TimeoutError:
                if request.transport is not None:
                    request.transport.abort()
                return
            await self._pause()

    async def _pause(self) -> None:
        """A second, or until all streams are to end."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _EVERY
        while not self._events.closed and loop.time() < until:
            try:
                async with asyncio.timeout_at(until):
                    await self._events.changed()
            except TimeoutError:
                return

    async def _frame(self) -> bytes:
        """The message of this moment: whoever asks within the same half second gets the same."""
        now = asyncio.get_running_loop().time()
        if self._making is None or now - self._made_at > _EVERY / 2:
            self._made_at = now
            self._making = self._tasks.start(self._make(), "say how things are")
        return await asyncio.shield(self._making)

    async def _make(self) -> bytes:
        samples = await self._recorder.samples(STEP)
        message = {
            "status": self._status(), "samples": samples, "strategies": [AUTO_STRATEGY, *STRATEGIES],
            "gpus": self._gpus(),
        }  # fmt: skip
        return b"event: live\ndata: " + json.dumps(message).encode() + b"\n\n"
