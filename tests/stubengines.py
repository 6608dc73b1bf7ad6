"""Workers that speak vLLM's answers and go wrong as they are told, over raw sockets: a framework decides too much."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from config.topology import BackendSpec
from lbfakes import RawWorker, read_message, running_raw_worker, spec
from simstreams import CONTEXT, stream
from worker.sim.engine import tokens
from worker.sim.errors import EngineDead

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
DEATH = EngineDead()

#: What follows what was written: the next request, the end of the connection, a reset, or nothing for ever.
KEEP, CLOSE, RESET, HANG = "keep", "close", "reset", "hang"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def answer(status: int, body: Any, kind: str = "application/json", **headers: str) -> bytes:
    """A whole answer; ``body`` is bytes, or becomes JSON. ``Retry_After="2"`` is a header."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(data)}", *([f"Content-Type: {kind}"] if kind else [])]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


def error(status: int, message: str = "it is not to be", **headers: str) -> bytes:
    return answer(status, {"error": {"message": message, "type": "Error", "param": None, "code": status}}, **headers)


@dataclass(frozen=True)
class Fault:
    """What becomes of one generation: ``whole`` in place of an answer, or else its stream up to ``events`` of them,
    then ``extra``; ``after`` (s) before anything but a stream's head; then ``end``."""

    whole: bytes | None = None
    events: int | None = None
    extra: bytes = b""
    after: float = 0.0
    end: str = KEEP


ENGINE_DIES = Fault(answer(500, DEATH.body()))


def engine_dies_after(events: int) -> Fault:
    """In the middle of a stream, as vLLM says it."""
    said = chunk(DEATH.event().encode()) + chunk(b"data: [DONE]\n\n") + LAST
    return Fault(events=events, extra=said)


@dataclass
class Stub:
    """``faults``: of its generations, in their order; once they are used up all is well. ``always``: of all of them.
    ``asked``: the generations that it got, path and body."""

    name: str
    faults: list[Fault] = field(default_factory=list)
    always: Fault | None = None
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    worker: RawWorker | None = None
    released: asyncio.Event = field(default_factory=asyncio.Event)
    hold_heads: bool = False  # the head of a stream comes with its first token
    mute: bool = False  # it closes the connection when it is asked anything but to generate

    def spec(self, **fields: Any) -> BackendSpec:
        assert self.worker is not None
        made = spec(self.name, self.worker.port, **fields)
        cards = tuple({**card, "max_model_len": CONTEXT} for card in made.models)
        return BackendSpec(**{**{name: getattr(made, name) for name in made.__slots__}, "models": cards})

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self.worker is not None
        request = self.worker.requests[-1]
        while await self._one(request, writer):
            await writer.drain()
            request = await read_message(reader)
            self.worker.requests.append(request)

    async def _one(self, request: bytes, writer: asyncio.StreamWriter) -> bool:
        head, _, body = request.partition(b"\r\n\r\n")
        path = head.split(b" ")[1].decode()
        data = json.loads(body) if body else {}
        if self.mute and path.endswith(("/detokenize", "/render")):
            return False
        if path == "/detokenize":
            writer.write(answer(200, {"prompt": tokens.decode(data["tokens"], special=True)}))
            return True
        if path.endswith("/render"):
            writer.write(error(404))  # as vLLM without `--enable-scale-out`
            return True
        self.asked.append((path, data))
        fault = self.always or (self.faults.pop(0) if self.faults else Fault())
        if fault.whole is not None:
            await asyncio.sleep(fault.after)
            writer.write(fault.whole)
        elif data.get("stream"):
            events = [] if fault.events == 0 else stream(data, "chat" in path, name=f"{self.name}{len(self.asked)}")
            await asyncio.sleep(fault.after if self.hold_heads else 0)
            writer.write(STREAM_HEAD)
            await writer.drain()
            await asyncio.sleep(0 if self.hold_heads else fault.after)
            sent = events if fault.events is None else events[: fault.events]
            writer.write(b"".join(map(chunk, sent)) + (LAST if fault.events is None else b"") + fault.extra)
        else:
            await asyncio.sleep(fault.after)
            made = {"id": self.name, "choices": [{"text": "whole", "finish_reason": "stop"}], "worker": self.name}
            writer.write(answer(200, made))
        await writer.drain()
        return await self._end(fault.end, writer)

    async def _end(self, end: str, writer: asyncio.StreamWriter) -> bool:
        if end == RESET:
            raw = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        elif end == HANG:
            await self.released.wait()
        return end == KEEP


async def start(stack: AsyncExitStack, *stubs: Stub) -> Sequence[Stub]:
    for stub in stubs:
        stub.worker = await stack.enter_async_context(running_raw_worker(stub.name, stub.serve))
        stack.callback(stub.released.set)
    return stubs
