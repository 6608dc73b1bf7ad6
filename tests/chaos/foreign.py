"""Plain servers that nobody supervises, attached as backends: started and, when they are killed, started again by the
harness."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from pathlib import Path

import httpx

from chaos.faults import Fault
from config.settings import inherited_environment
from harness import free_port, poll
from worker.drivers.process import Process, spawn
from worker.engines import base, key_guard
from worker.spec import EngineSpec, Slot, WorkerEndpoint

#: What makes a server ours.
_OURS = (key_guard.KEY, "PYTHONPATH")


class PlainServer:
    """``python -m vllm…`` as its own documents have it, without anything of ours in it; or a simulated one."""

    def __init__(self, root: Path, name: str, engine: str, model: str, served: str, given: tuple[str, ...]) -> None:
        self._root, self._name, self.port = root, name, free_port()
        spec = EngineSpec(engine, model, (served,), {}, ("--no-enable-lora", *given), dtype="float32")
        command = base.load(engine).command(spec, WorkerEndpoint(self.port), "none", Slot(), inherited_environment())
        words = list(command.argv)
        while "--middleware" in words:
            at = words.index("--middleware")
            del words[at : at + 2]
        self._argv = tuple(words)
        self._env = {name: value for name, value in command.env.items() if name not in _OURS}
        self._process: Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._process = spawn(
            self._argv, env=self._env, cwd=self._root, log=self._root / f"{self._name}.log",
            run_file=self._root / f"{self._name}.run",
        )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL of its API server; then of what that leaves behind."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGKILL)

    def bury(self) -> None:
        """Returns when nothing is left of it."""
        process = self._process
        if process is not None:
            poll(lambda: not process.kill_tree(), 15, "nothing of it is left")

    def answers(self) -> bool:
        with contextlib.suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        return False


class KillForeign(Fault):
    """One of the attached servers, all of which have to serve; it is started again at once."""

    name = "kill server"
    group = "worker"

    async def start(self) -> None:
        await self.arena.until(lambda _: len(self.arena.ready()) == len(self.arena.servers), self.patience)
        server = self.arena.chooser.choice(self.arena.servers)
        self.began = time.monotonic()
        server.kill()
        self._server = server

    async def finish(self) -> None:
        await asyncio.to_thread(self._server.bury)
        await asyncio.to_thread(self._server.start)
        deadline = time.monotonic() + self.patience
        while time.monotonic() < deadline:
            if await asyncio.to_thread(self._server.answers) and len(self.arena.ready()) == len(self.arena.servers):
                self.restored = time.monotonic()
                return
            await asyncio.sleep(0.5)
        self.blame(f"it did not serve again within {self.patience:g} s")
