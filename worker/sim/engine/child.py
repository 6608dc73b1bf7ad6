"""The stand-in for vLLM's engine core: one child process that must not outlive a clean exit.

It stays in the worker's session and process group. A SIGKILL of the worker leaves it behind as an orphan, as
vLLM leaves its EngineCore; a supervisor has to kill the group.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable


class EngineCore:
    """The child process and the watch for its death."""

    def __init__(self) -> None:
        # `sleep` costs half a megabyte; a second Python would cost ten.
        self._process = subprocess.Popen(["sleep", "infinity"], stdin=subprocess.DEVNULL)
        self._pidfd = os.pidfd_open(self._process.pid)
        self._watched_by: asyncio.AbstractEventLoop | None = None

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def watch(self, on_death: Callable[[], None]) -> None:
        """Call ``on_death`` once, in the running loop, when the child ends."""
        loop = self._watched_by = asyncio.get_running_loop()

        def ended() -> None:
            self._unwatch()
            self._process.wait()
            on_death()

        loop.add_reader(self._pidfd, ended)

    def kill(self) -> None:
        """Kill the child and leave the rest to the watch."""
        if self._process.returncode is None:
            self._process.send_signal(signal.SIGKILL)

    def close(self) -> None:
        """End and reap the child, whatever its state."""
        self._unwatch()
        self.kill()
        self._process.wait()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _unwatch(self) -> None:
        if self._watched_by is not None:
            self._watched_by.remove_reader(self._pidfd)
            self._watched_by = None
