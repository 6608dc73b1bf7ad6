"""Workers whose streams go wrong in every way we know, and what clients get of them."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from config.topology import BackendSpec
from lbfakes import Balanced, RawWorker, read_message, spec
from simstreams import CONTEXT, seen, stream
from worker.sim.engine import tokens

StartRaw = Callable[..., Awaitable[RawWorker]]
BODY: dict[str, Any] = {
    "model": "base", "stream": True, "max_tokens": 40, "temperature": 0, "ignore_eos": True,
    "stream_options": {"include_usage": True},
}  # fmt: skip

CHAT = {**BODY, "messages": [{"role": "user", "content": "hello"}]}
COMPLETION = {**BODY, "prompt": "hello"}
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def ends_with(writer: asyncio.StreamWriter, event: dict[str, Any]) -> bool:
    """As vLLM ends every stream, whatever happened."""
    writer.write(chunk(b"data: " + json.dumps(event).encode() + b"\n\n") + chunk(b"data: [DONE]\n\n") + LAST)
    return True


@dataclass
class Engine:
    """One worker. ``plan``, which may be shared: what goes wrong with the generations, (after so many events, what)."""

    name: str
    plan: list[tuple[int, str]] = field(default_factory=list)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    worker: RawWorker | None = None
    stalled: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    rendered: dict[str, Any] | None = None  # what it says of a generation without making it, if it says something

    def spec(self, **fields: Any) -> BackendSpec:
        assert self.worker is not None
        made = spec(self.name, self.worker.port, **fields)
        return BackendSpec(**{
            **{name: getattr(made, name) for name in made.__slots__},
            "models": tuple({**card, "max_model_len": CONTEXT} for card in made.models),
        })  # fmt: skip

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert self.worker is not None
        request = self.worker.requests[-1]
        while True:
            head, _, body = request.partition(b"\r\n\r\n")
            path = head.split(b" ")[1].decode()
            data = json.loads(body) if body else {}
            if path == "/detokenize":
                out = json.dumps({"prompt": tokens.decode(data["tokens"], special=True)}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(out), out))
            elif path.endswith("/render"):
                status = b"403 Forbidden" if self.rendered is None else b"200 OK"
                out = json.dumps({"token_ids": [1], **(self.rendered or {})}, separators=(",", ":")).encode()
                writer.write(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(out), out))
            else:
                self.asked.append((path, data))
                if not await self.generate(path, data, writer):
                    return
            await writer.drain()
            request = await read_message(reader)
            self.worker.requests.append(request)

    async def generate(self, path: str, data: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        fault = self.plan.pop(0) if self.plan else None
        events = stream(data, "chat" in path, name=f"{self.name}{len(self.asked)}")
        after, kind = fault or (len(events), "")
        if kind == "500":
            writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\n\r\n{}")
            return True
        writer.write(HEAD + b"".join(chunk(event) for event in events[:after]))
        await writer.drain()
        match kind:
            case "":
                writer.write(LAST)
                return True
            case "close":
                return False
            case "reset":
                for _ in range(20):  # what was written is read before it: a reset throws away what is not
                    await asyncio.sleep(0)
                raw = writer.get_extra_info("socket")
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return False
            case "half":
                writer.write(b"%x\r\n%b" % (len(events[after]), events[after][:20]))
                return False
            case "error":
                return ends_with(writer, {"error": {"message": "EngineCore is gone", "code": 500}})
            case "refused":
                return ends_with(writer, {"error": {"message": "too long", "code": 400}})
            case "abort":
                made = json.loads(events[min(after, len(events) - 3)][6:])
                made["choices"][0] |= {"finish_reason": "abort", "token_ids": []}
                return ends_with(writer, made)
            case "done":
                writer.write(chunk(b"data: [DONE]\n\n") + LAST)
                return True
            case "end":
                writer.write(LAST)
                return True
            case "garbage":
                writer.write(b"zz\r\nwhat is this\r\n")
                return False
            case "nonsense":
                writer.write(chunk(b'data: {"choices": [{"text": \n\n'))
                return True
            case "stall":
                self.stalled.set()
                await self.gone.wait()
                return False
        raise AssertionError(kind)


Engines = Callable[..., Awaitable[list[Engine]]]


async def ask(balancer: Balanced, body: dict[str, Any]) -> tuple[int, bytes]:
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    async with balancer.request("POST", path, json=body) as response:
        return response.status, await response.read()


def undisturbed(body: dict[str, Any]) -> dict[str, Any]:
    return seen(b"".join(stream(body, "messages" in body)))


def without_names(found: dict[str, Any]) -> dict[str, Any]:
    """The id is the first worker's, whichever that was."""
    assert len(found["heads"]) == 1
    return {**found, "heads": {(kind, model) for _, kind, _, model in found["heads"]}}


async def ask_raw(balancer: Balanced, body: dict[str, Any]) -> tuple[int, bytes]:
    """For answers that do not end as they should."""
    data = json.dumps(body).encode()
    async with balancer.connection() as (reader, writer):
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(data), data))
        answer = await asyncio.wait_for(reader.read(), 5)
    return int(answer[9:12]), answer
