"""Requests, and a worker that answers them when a test says so."""

from __future__ import annotations

import asyncio

from aiohttp import web

BODY = b'{"model": "base", "prompt": "x"}'
STREAM = b'{"model": "base", "prompt": "x", "stream": true}'


def post(body: bytes = BODY, version: bytes = b"1.1", path: bytes = b"/v1/completions") -> bytes:
    head = b"POST %b HTTP/%b\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (path, version, len(body)) + body


class Slow:
    """Answers when ``end`` is set; ``gone``: it was cancelled."""

    def __init__(self) -> None:
        self.begun, self.end, self.gone = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        if request.method == "GET":
            return web.json_response({"got": "it"})
        self.begun.set()
        try:
            if b'"stream"' not in await request.read():
                await self.end.wait()
                return web.json_response({"got": "it"})
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
            await response.prepare(request)
            await response.write(b'data: {"choices": [{"index": 0, "text": "a", "finish_reason": null}]}\n\n')
            await self.end.wait()
            await response.write(b'data: {"choices": [{"index": 0, "text": "b", "finish_reason": "stop"}]}\n\n')
            await response.write(b"data: [DONE]\n\n")
            return response
        except asyncio.CancelledError:
            self.gone.set()
            raise
