"""Requests and answers as bytes, and an answer that goes on only when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from aiohttp import web

from lbfakes import Balanced, RawWorker, Worker

StartWorker = Callable[..., Awaitable[Worker]]
StartBalancer = Callable[..., Awaitable[Balanced]]
StartRaw = Callable[..., Awaitable[RawWorker]]

SSE_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
PLAIN_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def post(body: bytes = b'{"model":"base"}', path: str = "/v1/completions") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


class Held:
    """An answer that sends one chunk and goes on only when told to; it knows when its client has gone."""

    def __init__(self, kind: str = "text/event-stream") -> None:
        self.kind, self.started, self.go_on, self.gone = kind, asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": self.kind})
        try:
            await response.prepare(request)
            await response.write(b"data: one\n\n")
            self.started.set()
            await self.go_on.wait()
            await response.write(b"data: [DONE]\n\n")
        except asyncio.CancelledError:
            self.gone.set()
            raise
        return response
