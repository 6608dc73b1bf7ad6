"""A balancer that is a process of its own, so that its open files and its memory are its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.link import encode
from config.topology import BackendSet, BalancerConfig
from exact.client import connected
from exact.messages import PATIENCE_S, SETTLED_S
from exact.workers import Workers
from fakes import soon
from lbfakes import backend_set, card, listening, spec

ROOT = Path(__file__).resolve().parents[2]

#: Without this, what glibc keeps for later depends on how many large bodies happened to be there at the same time.
START_ENV = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}

_LEVEL = re.compile(r"^clusterctl_(in_flight|model_in_flight|queued_requests)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)

#: What the balancer writes of an attempt that failed; it has nothing else to say.
_FAILED = re.compile(r"\S+ \S+ WARNING lb\.forwarding\.retry\.failover: request \S+ failed on instance_\w+: .+")


class Supervisor(asyncio.Protocol):
    """The link's other end: ``versions`` that the balancer has reported."""

    def __init__(self) -> None:
        self._line = b""
        self.versions: set[tuple[int, ...]] = set()

    def data_received(self, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["type"] == "report":
                self.versions.add(tuple(message["version"]))


@dataclass
class Running:
    """A balancer's process."""

    pid: int
    port: int
    log: Path

    def open_files(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())

    def memory(self) -> int:
        """Bytes that are its own: anonymous pages, swapped ones included."""
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return sum(int(kib) for kib in re.findall(r"^(?:Anonymous|Swap): +(\d+) kB", text, re.MULTILINE)) * 1024

    async def levels(self) -> dict[str, float]:
        """The sum of each of its in-flight gauges."""
        wire = await connected(self.port)
        wire.write(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        async with asyncio.timeout(PATIENCE_S):
            answer = await wire.answer()
        assert answer.status == 200
        levels: dict[str, float] = {}
        for name, value in _LEVEL.findall(answer.body.decode()):
            levels[name] = levels.get(name, 0.0) + abs(float(value))
        assert len(levels) == 3, levels
        return levels

    async def nothing_is_in_flight(self, workers: Workers) -> None:
        """Fails where something still is after the deadline."""
        end = time.monotonic() + SETTLED_S
        while any((levels := await self.levels()).values()) or workers.open:
            assert time.monotonic() < end, f"{levels}, and {workers.open} open at the workers"
            await asyncio.sleep(0.05)


def given(workers: Workers) -> BackendSet:
    """All have ``base``, the first one ``large`` too, the others ``fickle``; ``lazy`` is registered, nobody has it."""
    specs = [
        spec(f"instance_{number}", port, models=("base", "fickle" if number else "large"))
        for number, port in enumerate(workers.ports)
    ]
    if workers.dead_port:
        specs.append(spec("instance_dead", workers.dead_port, models=("base",)))
    return backend_set(*specs, strategy="least_connections", registered=(card("lazy", "base"),))


@asynccontextmanager
async def running_balancer(folder: Path, workers: Workers, **settings: Any) -> AsyncIterator[Running]:
    """As the supervisor starts it. Ended by SIGTERM; its log must say nothing."""
    listener, link, log = listening(), folder / "lb.sock", folder / "lb.log"
    port = listener.getsockname()[1]
    config = BalancerConfig(
        **{"listen_fd": listener.fileno(), "state_dir": str(folder), "host": "127.0.0.1", "port": port,
           "queue_timeout": 5.0, "log_level": "warning", **settings}
    )  # fmt: skip
    start = folder / "lb.json"
    start.write_text(json.dumps({**config.to_json(), "link": str(link)}))
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "lb", str(start), pass_fds=[listener.fileno()], cwd=ROOT, stderr=output,
            env={**os.environ, **START_ENV},
        )  # fmt: skip
    listener.close()
    supervisor, transport, loop = Supervisor(), None, asyncio.get_running_loop()
    try:
        async with asyncio.timeout(PATIENCE_S):
            while transport is None:
                with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
                    transport, _ = await loop.create_unix_connection(lambda: supervisor, str(link))
                await asyncio.sleep(0.01)
        transport.write(encode({"type": "set", "set": given(workers).to_json()}))
        await soon(lambda: (1, 1) in supervisor.versions, "its knowing the workers")
        yield Running(process.pid, port, log)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), PATIENCE_S) == 0
        unexpected = [line for line in log.read_text().splitlines() if not _FAILED.fullmatch(line)]
        assert unexpected == []
    finally:
        if transport is not None:
            transport.close()
        if process.returncode is None:
            process.kill()
            await process.wait()
