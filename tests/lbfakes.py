"""Fakes for the balancer's tests: backends, workers that do as they are told, and a balancer in this very loop."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import aiohttp
from aiohttp import web

from config.topology import BackendSet, BackendSpec, BalancerConfig
from lb import app
from lb.downstream import server
from lb.routing.backend import Backend

DEADLINE_S = 5.0

#: Seconds between two looks of a balancer under test at what takes too long.
SWEEP_S = 0.02

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
RawHandler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def card(name: str, parent: str | None = None) -> dict[str, Any]:
    """One entry of a worker's `/v1/models`."""
    return {"id": name, "object": "model", "owned_by": "vllm", "root": name, "parent": parent}


def spec(name: str = "instance_0", port: int = 1, models: tuple[str, ...] = ("base",), **fields: Any) -> BackendSpec:
    given = {
        "incarnation": 1, "state": "ready", "scheme": "http", "host": "127.0.0.1", "ip": "127.0.0.1", **fields
    }  # fmt: skip
    return BackendSpec(id=name, port=port, models=tuple(card(model) for model in models), **given)


def backend(name: str = "instance_0", *, busy: int = 0, latency: float | None = None, **fields: Any) -> Backend:
    """A backend with ``busy`` requests in flight."""
    made = Backend(spec(name, **fields))
    for _ in range(busy):
        made.lease(lambda reason: None)
    if latency is not None:
        made.latency.observe(latency, 0.0)
    return made


def backends(count: int, **fields: Any) -> list[Backend]:
    return [backend(f"instance_{number}", **fields) for number in range(count)]


def backend_set(*specs: BackendSpec, revision: int = 1, epoch: int = 1, **fields: Any) -> BackendSet:
    return BackendSet(**{"epoch": epoch, "revision": revision, "strategy": "round_robin", "backends": specs, **fields})


async def in_time(event: asyncio.Event) -> None:
    """Wait for the event; fail after the deadline."""
    await asyncio.wait_for(event.wait(), DEADLINE_S)


def listening() -> socket.socket:
    """A listening socket on a free port of the loopback interface."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    listener.setblocking(False)
    return listener


@dataclass
class Seen:
    """A request as a worker got it."""

    method: str
    target: str
    headers: Any
    body: bytes


@dataclass(frozen=True)
class Waiting:
    """A request in flight, as a `lb.routing.backend.Asker`."""

    awaited: int | None


@dataclass
class Worker:
    """An upstream server that answers as ``answer`` says and remembers what it was asked."""

    name: str
    port: int = 0
    seen: list[Seen] = field(default_factory=list)
    answer: Handler | None = None
    open: int = 0

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read() if request.body_exists else b""
        self.seen.append(Seen(request.method, request.raw_path, request.headers, body))
        self.open += 1
        try:
            if self.answer is not None:
                return await self.answer(request)
            return web.json_response({"worker": self.name})
        finally:
            self.open -= 1

    def spec(self, **fields: Any) -> BackendSpec:
        return spec(self.name, self.port, **fields)


@asynccontextmanager
async def running_worker(name: str, answer: Handler | None = None) -> AsyncIterator[Worker]:
    worker = Worker(name, answer=answer)
    application = web.Application(client_max_size=2**26)
    application.router.add_route("*", "/{path:.*}", worker.handle)
    runner = web.AppRunner(
        application, access_log=None, handler_cancellation=True, auto_decompress=False, shutdown_timeout=0.1
    )
    await runner.setup()
    listener = listening()
    worker.port = listener.getsockname()[1]
    await web.SockSite(runner, listener).start()
    try:
        yield worker
    finally:
        await runner.cleanup()


@dataclass
class RawWorker:
    """An upstream that speaks bytes: for answers that no decent server gives."""

    name: str
    port: int = 0
    requests: list[bytes] = field(default_factory=list)

    def spec(self, **fields: Any) -> BackendSpec:
        return spec(self.name, self.port, **fields)


@asynccontextmanager
async def running_raw_worker(name: str, answer: RawHandler) -> AsyncIterator[RawWorker]:
    """Calls ``answer`` for each connection after one request has been read, then closes the connection."""
    worker, tasks = RawWorker(name), set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        tasks.add(task)
        try:
            worker.requests.append(await read_message(reader))
            await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            tasks.discard(task)

    server = await asyncio.start_server(connected, sock=listening())
    worker.port = server.sockets[0].getsockname()[1]
    try:
        yield worker
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def read_message(reader: asyncio.StreamReader) -> bytes:
    """Head and body (by its Content-Length) of one HTTP message."""
    head = await reader.readuntil(b"\r\n\r\n")
    lengths = [line.split(b":")[1] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    return head + (await reader.readexactly(int(lengths[0])) if lengths else b"")


def raw_answer(*parts: bytes) -> RawHandler:
    """Writes ``parts``, then the connection is closed."""

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return answer


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def dead(name: str = "instance_0", **fields: Any) -> BackendSpec:
    """A backend that is said to be ready, but nobody listens on its port."""
    return spec(name, closed_port(), **fields)


@dataclass
class Balanced:
    """A balancer that serves in this loop, without a process and, unless a test plays it, without a supervisor."""

    parts: app.Balancer
    url: str
    port: int
    link_path: Path
    state_dir: Path
    session: aiohttp.ClientSession
    revision: int = 0

    def push(self, *specs: BackendSpec, **fields: Any) -> None:
        """What a supervisor's next backend set does."""
        self.revision += 1
        assert self.parts.pool.apply(backend_set(*specs, revision=self.revision, **fields))

    @property
    def in_flight(self) -> int:
        return sum(self.parts.pool.in_flight().values())

    def counts(self, name: str = "instance_0") -> tuple[int, int]:
        """(requests, errors) of a backend."""
        return self.parts.counters.get(name)

    def request(self, method: str, path: str, **options: Any) -> Any:
        return self.session.request(method, self.url + path, **options)

    def generate(self, path: str = "/v1/completions", model: str | None = "base", **fields: Any) -> Any:
        return self.request("POST", path, json={**({"model": model} if model else {}), "prompt": "x", **fields})

    async def answer(self, method: str = "GET", path: str = "/version", **options: Any) -> tuple[int, Any]:
        """(status, JSON) of an answer."""
        async with self.request(method, path, **options) as response:
            return response.status, json.loads(await response.text())

    async def ask(self, path: str = "/v1/completions", **fields: Any) -> tuple[int, Any]:
        async with self.generate(path, **fields) as response:
            return response.status, json.loads(await response.text())

    def metric(self, name: str, **labels: str) -> float | None:
        return self.parts.shared.metrics.registry.get_sample_value(name, labels)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """A plain TCP connection to it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            yield reader, writer
        finally:
            writer.close()

    async def raw(self, request: bytes) -> bytes:
        """Everything it answers to these bytes until it closes the connection."""
        async with self.connection() as (reader, writer):
            writer.write(request)
            return await asyncio.wait_for(reader.read(), DEADLINE_S)


@asynccontextmanager
async def running_balancer(
    state_dir: Path, rpc_listener: socket.socket | None = None, **config: Any
) -> AsyncIterator[Balanced]:
    """With an ``rpc_listener`` it speaks gRPC there. It looks often at what takes too long."""
    listener = listening()
    port = listener.getsockname()[1]
    given = {"listen_fd": listener.fileno(), "state_dir": str(state_dir), "host": "127.0.0.1", "port": port}
    link_path = state_dir / "lb.sock"
    made = BalancerConfig(**{**given, "queue_timeout": DEADLINE_S, **config})
    parts = app.make(made, listener, link_path, rpc_listener)
    session = aiohttp.ClientSession(
        auto_decompress=False, timeout=aiohttp.ClientTimeout(total=2 * DEADLINE_S), cookie_jar=aiohttp.DummyCookieJar()
    )
    with mock.patch.object(server, "_SWEEP_S", SWEEP_S):
        try:
            await parts.start(listener)
            yield Balanced(parts, f"http://127.0.0.1:{port}", port, link_path, state_dir, session)
        finally:
            await session.close()
            await parts.close()


def instance(name: str = "instance_0", **fields: Any) -> dict[str, Any]:
    """An instance in a supervisor's snapshot."""
    return {
        "managed": True, "state": "ready", "is_running": True, "degraded": False, "reason": "", "host": "127.0.0.1",
        "port": 1, "weight": 1, "pid": 4711, "gpus": [], "restarts": 2, "uptime_s": 5.0, "cpu_percent": 12.5,
        "memory_mb": 100.0, "models": ["base"], "last_exit": None, "log": f"/nowhere/{name}.log", **fields,
    }  # fmt: skip


def snapshot(*names: str, **fields: Any) -> dict[str, Any]:
    """What a supervisor says of itself, with one ready instance a name."""
    return {
        "sequence": [1, 1], "supervisor": {"pid": 1234, "state_dir": "/nowhere"},
        "load_balancer": {"restarts": 3},
        "engine": "sim", "model": "base", "total_instances": len(names), "min_instances": 1, "max_instances": 8,
        "instances": {name: instance(name) for name in names}, **fields,
    }  # fmt: skip
