"""One start of a worker on this machine."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Collection
from pathlib import Path

from worker import logfile
from worker.drivers import scratch
from worker.drivers.proc import ProcessId
from worker.drivers.process import Process
from worker.spec import WorkerEndpoint, WorkerSpec


class LocalHandle(Process):
    """The process that ``spec`` was started as, and its session."""

    def __init__(
        self, process: ProcessId, spec: WorkerSpec, popen: subprocess.Popen[bytes] | None = None
    ) -> None:
        super().__init__(process, popen)
        self._spec = spec

    @property
    def endpoint(self) -> WorkerEndpoint:
        return self._spec.endpoint

    def stop(self) -> None:
        self.signal(signal.SIGTERM)

    def destroy(self) -> bool:
        if self.kill_tree():
            return True
        scratch.remove(self._spec)
        return False

    async def provide(self, folder: Path, held: Collection[Path]) -> Path:
        return folder

    def origin(self, path: str) -> str:
        return path

    def logs(self, lines: int) -> list[str]:
        return logfile.tail(self._spec.log, lines)
