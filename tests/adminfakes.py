"""A supervisor that a test plays to a whole balancer: what it tells, and how it answers changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from config.link import bind_unix, encode
from fakes import soon
from lbfakes import Balanced, RawHandler, Worker, snapshot

StartWorker = Callable[..., Awaitable[Worker]]

STATUS = "/v1/cluster/status"
CHANGES = [("POST", "/v1/cluster/scale"), ("POST", "/v1/cluster/strategy"), ("POST", "/v1/cluster/restart"),
           ("POST", "/v1/cluster/shutdown"), ("PATCH", "/v1/cluster/instances/instance_0"),
           ("POST", "/v1/cluster/apply"), ("POST", "/v1/cluster/instances/instance_0/drain"),
           ("DELETE", "/v1/cluster/instances/instance_0/drain")]  # fmt: skip


@dataclass
class Control:
    """A supervisor's control API that gives one answer."""

    status: int = 202
    body: dict[str, Any] = field(default_factory=lambda: {"desired": 3, "current": 2})
    headers: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.raw_path, await request.read()))
        return web.json_response(self.body, status=self.status, headers=self.headers)


@asynccontextmanager
async def control(balancer: Balanced, **fields: Any) -> AsyncIterator[Control]:
    made = Control(**fields)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.SockSite(runner, bind_unix(balancer.state_dir / "control.sock")).start()
    try:
        yield made
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_control(balancer: Balanced, answer: RawHandler) -> AsyncIterator[None]:
    """A supervisor that dies in the middle of a change."""
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(reader, writer)
        writer.close()

    server = await asyncio.start_unix_server(connected, sock=bind_unix(balancer.state_dir / "control.sock"))
    try:
        yield
    finally:
        server.close()


@asynccontextmanager
async def supervisor(balancer: Balanced, *names: str, **fields: Any) -> AsyncIterator[asyncio.StreamWriter]:
    """Connects as a supervisor does and says its snapshot."""
    reader, writer = await asyncio.open_unix_connection(str(balancer.link_path))
    try:
        await reader.readline()
        say(writer, snapshot(*names, **fields))
        await soon(lambda: balancer.parts.link.snapshot.get("instances") is not None)
        yield writer
    finally:
        writer.close()
        await soon(lambda: not balancer.parts.link.alive)


def say(writer: asyncio.StreamWriter, words: dict[str, Any]) -> None:
    writer.write(encode({"type": "snapshot", "snapshot": words}))
