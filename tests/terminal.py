"""A terminal for tests: a program on a pseudo-terminal that is its own, and what it shows there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from typing import Any

from harness import CLI, environment


class Terminal:
    """`clusterctl ARGS` at a terminal of ``size`` (lines, columns)."""

    def __init__(self, *args: str, size: tuple[int, int] = (30, 120), **env: str) -> None:
        self._master, self._slave = pty.openpty()
        self.resize(*size)
        self.before = termios.tcgetattr(self._slave)
        self.seen = b""
        self.process = subprocess.Popen(
            [CLI, *args], stdin=self._slave, stdout=self._slave, stderr=self._slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            env=environment(TERM="xterm", LANG="C.UTF-8", **env),
        )

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(10)
        os.close(self._master)
        os.close(self._slave)

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    @property
    def mode(self) -> list[Any]:
        """How the terminal is set now."""
        return termios.tcgetattr(self._slave)

    def send(self, text: str) -> None:
        os.write(self._master, text.encode())

    def _more(self, deadline: float) -> None:
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if ready:
            self.seen += os.read(self._master, 65536)

    def expect(self, text: str, timeout: float = 20.0) -> str:
        """What was shown up to ``text``, which is taken off what is expected next; fails after ``timeout`` s."""
        deadline, wanted = time.monotonic() + timeout, text.encode()
        while wanted not in self.seen:
            assert time.monotonic() < deadline, f"{text!r} is not shown; shown: {self.seen[-3000:]!r}"
            self._more(deadline)
        before, _, self.seen = self.seen.partition(wanted)
        return before.decode(errors="replace")

    def end(self, timeout: float = 20.0) -> tuple[int, str]:
        """Its exit code and all that it still showed."""
        deadline = time.monotonic() + timeout
        while self.process.poll() is None:
            assert time.monotonic() < deadline, f"it does not end; shown: {self.seen[-3000:]!r}"
            self._more(min(deadline, time.monotonic() + 0.05))
        while select.select([self._master], [], [], 0)[0]:
            self.seen += os.read(self._master, 65536)
        return self.process.returncode, self.seen.decode(errors="replace")
