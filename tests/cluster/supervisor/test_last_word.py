"""What a balancer process said before its end counts, whichever of the two is noticed first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

from cluster.balancers.feed import Feed
from cluster.balancers.process import BalancerProcess
from cluster.storage.store import Records
from config.link import encode
from config.paths import StateDir
from worker.drivers.process import Process


class Group:
    """Notes what was in flight when the end of a process was told."""

    def __init__(self) -> None:
        self.left: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.reports = asyncio.Queue[int]()

    feed = Feed()

    def on_message(self, process: BalancerProcess, message: Mapping[str, Any]) -> None:
        self.reports.put_nowait(process.requests)

    def ended(self, process: BalancerProcess, status: int | None) -> None:
        self.left.set_result(process.requests)


class Ends:
    """A process that ends when it is told to."""

    pid = 4711
    exited: Callable[[int | None], None]

    def watch(self, exited: Callable[[int | None], None]) -> None:
        self.exited = exited

    def kill_tree(self) -> list[int]:
        return []


class Forgets:
    async def forget_process(self, name: str) -> None:
        pass


def _report(**in_flight: int) -> bytes:
    return encode({"type": "report", "version": [1, 1], "in_flight": in_flight})


async def _ended(tmp_path: Path, last: bytes) -> int:
    """Requests that are said to be lost of a process that had two and says ``last`` just before its end, of which is
    heard first."""
    writers = asyncio.Queue[asyncio.StreamWriter]()
    link = tmp_path / "l"
    server = await asyncio.start_unix_server(lambda _, writer: writers.put_nowait(writer), str(link))
    group, handle = Group(), Ends()
    process = BalancerProcess(
        "lb-1", "balancer", 1, group, StateDir(tmp_path), cast(Records, Forgets()), handle=cast(Process, handle),
        link=link,
    )  # fmt: skip
    process.follow()
    writer = await writers.get()
    writer.write(_report(a=2))
    assert await group.reports.get() == 2
    handle.exited(0)
    writer.write(last)
    writer.close()
    async with asyncio.timeout(5):
        left = await group.left
    await process.close()
    server.close()
    return left


async def test_what_it_finished_at_last_is_not_lost(tmp_path: Path) -> None:
    assert await _ended(tmp_path, _report()) == 0


async def test_what_it_did_not_finish_is(tmp_path: Path) -> None:
    assert await _ended(tmp_path, b"") == 2
