"""Simulated workers as real processes, each in a process group of its own that is gone after the test."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from hypothesis import settings

from fakes import soon

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_S = 8.0
# These run with every change: enough examples to find a slip, few enough to stay in seconds.
settings.register_profile("sim", max_examples=40, deadline=None)
settings.load_profile("sim")


@dataclass
class Sim:
    """One running simulator."""

    process: subprocess.Popen[bytes]
    log: Path
    url: str
    session: aiohttp.ClientSession

    async def get(self, path: str) -> Any:
        """The JSON answer of a GET."""
        async with self.session.get(self.url + path) as answer:
            return await answer.json(content_type=None)

    async def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and JSON answer of a POST."""
        async with self.session.post(self.url + path, json=body) as answer:
            text = await answer.text()
            return answer.status, text if answer.content_type == "application/octet-stream" else _json(text)

    async def fault(self, kind: str, **options: Any) -> None:
        """Switch a fault on."""
        assert (await self.post("/sim/fault", {"kind": kind, **options}))[0] == 200

    async def lines(self, body: dict[str, Any], path: str = "/v1/completions") -> list[str]:
        """The data of all events of a stream."""
        async with self.session.post(self.url + path, json={**body, "stream": True}) as answer:
            text = await answer.text()
        return [line.removeprefix("data: ") for line in text.split("\n\n") if line]

    async def running(self, running: int, waiting: int = 0) -> None:
        """Wait until so many sequences run and wait."""
        end = time.monotonic() + DEADLINE_S
        while (seen := await self.get("/sim/state"))["running"] != running or seen["waiting"] != waiting:
            assert time.monotonic() < end, seen
            await asyncio.sleep(0.01)

    async def draining(self) -> None:
        """Wait until it drains."""
        end = time.monotonic() + DEADLINE_S
        while not (await self.get("/sim/state"))["draining"]:
            assert time.monotonic() < end, "it does not drain"
            await asyncio.sleep(0.01)

    def members(self) -> set[int]:
        """Living processes of its group."""
        return group_members(self.process.pid)

    async def exit_code(self) -> int:
        """Wait for the process to end."""
        await soon(lambda: self.process.poll() is not None)
        return self.process.returncode


def _json(text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except ValueError:
        return text


def group_members(group: int) -> set[int]:
    """Living processes of a process group."""
    made = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            made.add(int(stat.parent.name))
    return made


@pytest.fixture
def spawn(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[bytes], Path]]]:
    """Start ``python -m worker.sim`` with these arguments; all groups are killed afterwards."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*argv: str, **environ: str) -> tuple[subprocess.Popen[bytes], Path]:
        log = tmp_path / f"log{len(started)}"
        env = {**os.environ, "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1", "PYTHONPATH": str(ROOT), **environ}
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "worker.sim", *argv],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=env, cwd=tmp_path, process_group=0,
            )  # fmt: skip
        started.append(process)
        return process, log

    yield start
    for process in started:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    for process in started:
        end = time.monotonic() + DEADLINE_S
        while group_members(process.pid):  # an orphan that was killed is not ours to be waited for
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture
async def sim(spawn: Callable[..., Any]) -> AsyncIterator[Callable[..., Any]]:
    """Start a simulator and wait until it listens."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S)) as session:

        async def start(*argv: str, **environ: str) -> Sim:
            common = ("--host", "127.0.0.1", "--port", "0", "--ttft-ms", "1", "--itl-ms", "5")
            process, log = spawn(*common, *argv, **environ)
            await soon(lambda: "://" in log.read_text() or process.poll() is not None)
            found = re.search(r"on (http://\S+)", log.read_text())
            assert found, log.read_text()
            return Sim(process, log, found[1], session)

        yield start
