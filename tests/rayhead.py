"""A Ray on this machine, for tests: of one node, or of more that join it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import DriverUnderTest, free_port, poll
from worker.drivers import proc

#: 127.0.0.1 is taken for "the address of whoever asks" in some of Ray.
HOST = "127.0.0.2"


@dataclass
class Head:
    """``home``: of its processes, by which they are told from others'."""

    address: str
    home: Path

    @property
    def driver(self) -> DriverUnderTest:
        """For clusters whose workers run there."""
        return DriverUnderTest(
            "ray", ("--driver", "ray", "--ray-address", self.address), {"RAY_AUTH_MODE": "disabled"},
            self.home / ".cache" / "clusterctl" / "agents",
        )  # fmt: skip

    def processes(self, words: str) -> list[int]:
        """Whose command line has ``words`` in it."""
        return [pid for pid in self._all() if words in _text(pid, "cmdline").replace("\0", " ")]

    def find(self, words: str) -> int:
        return poll(lambda: self.processes(words), 30, words)[0]

    def kill(self) -> None:
        """All of Ray at once: head, raylet, and its workers."""
        for pid in self._all():
            command = _text(pid, "cmdline").replace("\0", " ")
            if "worker.agent" not in command and "worker.sim" not in command:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def end(self) -> None:
        """Whatever has this home."""
        for pid in self._all():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _all(self) -> list[int]:
        mark = f"HOME={self.home}\0"
        return [one.pid for one in proc.processes() if one.alive and mark in _text(one.pid, "environ") + "\0"]


def _text(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""


@contextlib.contextmanager
def running(folder: Path, *given: str) -> Iterator[Head]:
    """With all that it started, it ends at the end. ``given``: more flags of ``ray start``."""
    port = free_port()
    temporary = Path(tempfile.mkdtemp(prefix="ray-"))  # sockets lie below it, and a path of one may have 107 bytes
    made = Head(f"{HOST}:{port}", folder)
    try:
        _start(made, HOST, temporary, "--head", f"--port={port}", "--include-dashboard=false", *given)
        yield made
    finally:
        made.end()
        shutil.rmtree(temporary, ignore_errors=True)


def join(head: Head, host: str, *given: str) -> None:
    """One more node of it, on that address."""
    _start(head, host, None, f"--address={head.address}", *given)


def kill_node(head: Head, host: str) -> None:
    """Its raylet, and with it what Ray runs there."""
    raylets = head.processes("raylet/raylet")
    os.kill(next(pid for pid in raylets if f"--node_ip_address={host}" in _text(pid, "cmdline")), signal.SIGKILL)


def _start(head: Head, host: str, temporary: Path | None, *given: str) -> None:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    home = {**kept, "HOME": str(head.home), "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    argv = [
        str(Path(sys.executable).with_name("ray")), "start", f"--node-ip-address={host}", "--num-cpus=4",
        "--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats", "--object-store-memory=100000000",
        *([f"--temp-dir={temporary}"] if temporary else []), *given,
    ]  # fmt: skip
    with (head.home / "ray.log").open("ab") as log:
        subprocess.run(argv, env=home, stdout=log, stderr=log, check=True, timeout=90)
