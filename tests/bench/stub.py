"""An upstream that costs little: answers at once, or with a paced event stream. ``python stub.py FD``."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import sys

import uvloop

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
_STREAMED = re.compile(rb'"stream": ?true')
_BODY = json.dumps(
    {"id": "cmpl-1", "object": "chat.completion", "created": 1, "model": "base", "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "x" * 400}, "finish_reason": "stop"}],
     "usage": {"prompt_tokens": 100, "completion_tokens": 100, "total_tokens": 200}}
).encode()  # fmt: skip
_SMALL = b"HTTP/1.1 200 OK\r\nserver: stub\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (
    len(_BODY), _BODY,
)  # fmt: skip
_STREAM = (
    b"HTTP/1.1 200 OK\r\nserver: stub\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_IDS_ASKED = re.compile(rb'"return_token_ids": ?true')


def _event(content: str, reason: str | None, ids: list[int] | None) -> bytes:
    """As vLLM 0.32 writes one of a chat."""
    choice = {"index": 0, "delta": {"content": content}, "logprobs": None, "finish_reason": reason, "token_ids": ids}
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "base", "choices": [choice]}
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


_EVENTS = {asked: _event(" token", None, [1234] if asked else None) for asked in (False, True)}
_LAST = {asked: _event(" token", "length", [1234] if asked else None) for asked in (False, True)}
_LARGE = _event("x" * 4000, None, None)
_DONE = b"data: [DONE]\n\n"
_HEALTHY = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
_MODELS = b'{"object": "list", "data": [{"id": "base", "object": "model", "owned_by": "stub", "parent": null}]}'


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Stub(asyncio.Protocol):
    """A body says what is wanted in fields that routers which rewrite it know: ``stream``, ``max_tokens`` chunks,
    ``temperature`` seconds between them; ``n`` megabytes as quickly as they are taken."""

    connections = 0

    def __init__(self) -> None:
        self._buffer = b""
        self._timer: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        Stub.connections += 1

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, end)
        total = end + 4 + (int(length[1]) if length else 0)
        if len(self._buffer) < total:
            return
        head, body, self._buffer = self._buffer[:end], self._buffer[end + 4 : total], self._buffer[total:]
        if head.startswith(b"POST"):
            self._answer(body)
        elif b"/connections" in head[:20]:
            count = b"%d" % Stub.connections
            self._write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(count), count))
        elif b"/v1/models" in head[:20]:
            self._write(_HEALTHY.replace(b"content-length: 2\r\n\r\n{}", b"content-length: %d\r\n\r\n" % len(_MODELS)))
            self._write(_MODELS)
        else:
            self._write(_HEALTHY)

    def _write(self, data: bytes) -> None:
        self._transport.write(data)  # type: ignore[attr-defined]

    def _answer(self, body: bytes) -> None:
        if not _STREAMED.search(body):
            self._write(_SMALL)
            return
        wanted = json.loads(body)
        if (wanted.get("n") or 1) > 1:
            task = asyncio.get_running_loop().create_task(self._flood(wanted["n"] * 1_000_000), name="flood")
            self._tasks.add(task)
            return
        self._write(_STREAM)
        chunks = wanted.get("max_tokens") or wanted["max_completion_tokens"]
        asked = _IDS_ASKED.search(body) is not None
        self._next(chunks, wanted["temperature"], asyncio.get_running_loop().time(), asked)

    def _next(self, left: int, gap: float, due: float, ids: bool) -> None:
        if left:
            self._write(_chunk((_EVENTS if left > 1 else _LAST)[ids]))
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(due + gap, loop.time()), self._next, left - 1, gap, due + gap, ids)
        else:
            self._write(_chunk(_DONE) + b"0\r\n\r\n")

    async def _flood(self, size: int) -> None:
        self._write(_STREAM)
        event = _chunk(_LARGE) * 16
        sent = 0
        while sent < size:
            await self._writable.wait()
            self._write(event)
            sent += len(event)
            await asyncio.sleep(0)
        self._write(_chunk(_LAST[False]) + _chunk(_DONE) + b"0\r\n\r\n")


async def main() -> None:
    listener = socket.socket(fileno=int(sys.argv[1]))
    listener.setblocking(False)
    server = await asyncio.get_running_loop().create_server(Stub, sock=listener, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
