"""A balancer that serves gRPC, in front of a worker that streams what it is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import web

import rpccalls
from config.model_names import route
from lbfakes import DEADLINE_S, Balanced, Worker, listening, running_balancer, running_worker

FINANCE = route({"rules": [{"keywords": ["账单"], "model": "expert-a"}], "default": "base"}).to_json()
MODELS = ("base", "expert-a", "expert-b")
Code = grpc.StatusCode


def an_event(text: str | None, end: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": end}
    return b"data: " + json.dumps({"id": "x", "choices": [choice]}).encode() + b"\n\n"


async def begun_stream(request: web.Request) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    return response


async def streamed(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    response = await begun_stream(request)
    for text in ("你", "好", body["model"]):
        await response.write(an_event(text))
        await asyncio.sleep(0)
    await response.write(an_event("", "stop") + b"data: [DONE]\n\n")
    return response


@dataclass
class Called:
    """A balancer, its worker, and a channel to it."""

    balancer: Balanced
    worker: Worker
    channel: grpc.aio.Channel
    target: str

    def call(self, *metadata: tuple[str, str], timeout: float | None = DEADLINE_S, **fields: Any) -> Any:
        return rpccalls.call(self.channel, *metadata, timeout=timeout, **fields)

    async def chat(self, *metadata: tuple[str, str], **fields: Any) -> list[tuple[str, bool]]:
        return [(chunk.text_delta, chunk.finished) async for chunk in self.call(*metadata, **fields)]

    async def failure(self, *metadata: tuple[str, str], **fields: Any) -> grpc.aio.AioRpcError:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await self.chat(*metadata, **fields)
        return failed.value


@asynccontextmanager
async def calling(folder: Path, answer: Any = streamed, keys: Any = (), **config: Any) -> AsyncIterator[Called]:
    listener = listening()
    target = f"127.0.0.1:{listener.getsockname()[1]}"
    async with (
        running_balancer(folder, listener, **config) as balancer, running_worker("instance_0", answer) as worker,
        rpccalls.channel(target) as channel,
    ):  # fmt: skip
        balancer.push(worker.spec(models=MODELS), names={"finance": FINANCE})
        if keys:
            made = [key.to_json() for key in keys]
            balancer.parts.keys.apply({"version": [1, 1], "keyed": True, "keys": made})
        yield Called(balancer, worker, channel, target)
    listener.close()
