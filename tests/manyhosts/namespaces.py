"""Hosts on this machine: network, processes and mounts of their own, on one switch. Needs root, and nothing of it is
left when whoever made them has ended, in whichever way: each is an init that ends with its standard input, and with
an init all its processes, its mounts and its network interfaces."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from harness import environment, poll
from worker.drivers import proc

T = TypeVar("T")

#: As of setns(2).
_NEWNET = 0x40000000

#: Of tests that use these.
NEEDED = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("nsenter") is None, reason="only root makes namespaces")

#: What a host has of its own, whatever else they share: the same place on each.
OWN = Path("/mnt")

_INIT = """
import os, select, signal, sys
signal.signal(signal.SIGCHLD, lambda *_: None)
read, write = os.pipe2(os.O_NONBLOCK)
signal.set_wakeup_fd(write)
print("up", flush=True)
while 0 not in (ready := select.select([0, read], [], [])[0]):
    os.read(read, 4096)
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
"""


@dataclass(frozen=True)
class Process:
    """``outer``: its pid as whoever made the hosts sees it; ``pid``: as its host does."""

    outer: int
    pid: int
    session: int
    command: str


class Switch:
    """Cables end in it as ``p1``, ``p2`` …"""

    def __init__(self) -> None:
        self._init = _started("unshare", "--net")
        self.ip("link add br0 type bridge", "link set br0 up")

    def ip(self, *commands: str) -> None:
        _ip(self._init.pid, *commands)

    def close(self) -> None:
        _end(self._init)


class Host:
    """Number ``number`` (1 …) on ``switch``, with what lies in ``folder`` as its disk. It is off until `boot`."""

    def __init__(self, switch: Switch, number: int, folder: Path) -> None:
        self._switch, self._number, self.folder = switch, number, folder
        self.name, self.address = f"host {number}", f"10.77.0.{number}"
        self._unshare: subprocess.Popen[bytes] | None = None
        self._init = 0
        for one in ("home", "tmp"):
            (folder / one).mkdir(parents=True)

    @property
    def on(self) -> bool:
        return self._unshare is not None

    def boot(self) -> None:
        spaces = ("--net", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child")
        self._unshare = _started("unshare", *spaces)
        children = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children").read_text().split()
        self._init = int(children[0])
        self._threads = ThreadPoolExecutor(8, self.name, _enter, (self._init,))
        cable, route = f"p{self._number}", "route add default dev eth0"  # by which it finds its own address
        self._switch.ip(
            f"link add {cable} type veth peer name eth0 netns {self._init}", f"link set {cable} master br0 up"
        )
        _ip(self._init, "link set lo up", f"addr add {self.address}/24 dev eth0", "link set eth0 up", route)
        self.run("mount", "--bind", str(self.folder), str(OWN))
        self.run("mount", "-t", "tmpfs", "-o", "size=512m", "shm", "/dev/shm")

    def kill(self) -> None:
        """As if the power went: nobody hears of it."""
        if self._unshare is not None:
            os.kill(self._init, signal.SIGKILL)
            _end(self._unshare)
            self._threads.shutdown(wait=False)
            with contextlib.suppress(subprocess.CalledProcessError):  # it goes with the last thread that was there
                self._switch.ip(f"link del p{self._number}")
            self._unshare = None

    def cut(self) -> None:
        """Nothing comes through its cable any more."""
        self._switch.ip(f"link set p{self._number} down")

    def join(self) -> None:
        self._switch.ip(f"link set p{self._number} up")

    def submit(self, do: Callable[..., T], *args: Any) -> Future[T]:
        """In a thread of this process, with the network of the host."""
        return self._threads.submit(do, *args)

    def inside(self, do: Callable[..., T], *args: Any) -> T:
        return self.submit(do, *args).result()

    def run(self, *argv: str, timeout: float = 60.0, **env: str) -> subprocess.CompletedProcess[str]:
        """There, to its end, with its output captured."""
        return subprocess.run(
            self._entering(argv), capture_output=True, text=True, timeout=timeout, check=False, cwd=self.folder,
            env=self._environment(env),
        )  # fmt: skip

    def start(self, *argv: str, **env: str) -> None:
        """Something that goes on for as long as the host does; what it says is in ``log`` of its folder."""
        with (self.folder / "log").open("ab") as log:
            subprocess.Popen(
                self._entering(argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                env=self._environment(env), start_new_session=True,
            )  # fmt: skip

    def processes(self, words: str = "") -> list[Process]:
        """Those that live, with ``words`` in their command line."""
        return [one for one in self._all() if words in one.command] if self.on else []

    def strike(self, words: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Kills the first such process, as soon as there is one."""
        victim = poll(lambda: self.processes(words), 60, f"{words} on {self.name}")[0]
        os.kill(victim.outer, number)

    def _all(self) -> Iterator[Process]:
        own = Path(f"/proc/{self._init}/ns/pid").readlink()
        for found in proc.processes():
            folder = Path(f"/proc/{found.pid}")
            try:
                if not found.alive or (folder / "ns" / "pid").readlink() != own:
                    continue
                status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
                command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            pid, session = (int(status[field].split()[-1]) for field in ("NSpid", "NSsid"))
            yield Process(found.pid, pid, session, command)

    def _entering(self, argv: Sequence[str]) -> list[str]:
        return ["nsenter", "--target", str(self._init), "--net", "--mount", "--pid", "--", *argv]

    def _environment(self, more: Mapping[str, str]) -> dict[str, str]:
        return environment(HOME=str(OWN / "home"), TMPDIR=str(OWN / "tmp"), **more)


def _started(*unshare: str) -> subprocess.Popen[bytes]:
    """An init in namespaces of its own, that runs."""
    argv = [*unshare, sys.executable, "-I", "-S", "-c", _INIT]
    made = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
    assert made.stdout is not None and made.stdout.readline() == b"up\n", "no namespaces can be made here"
    return made


def _end(init: subprocess.Popen[bytes]) -> None:
    init.kill()
    init.wait()
    for pipe in (init.stdin, init.stdout):
        if pipe is not None:
            pipe.close()


def _ip(process: int, *commands: str) -> None:
    """By iproute2, in the network of ``process``."""
    argv = ["nsenter", "--target", str(process), "--net", "ip", "-batch", "-"]
    subprocess.run(argv, input="\n".join(commands), text=True, check=True, timeout=20, stdout=subprocess.DEVNULL)


def _enter(process: int) -> None:
    """This thread's sockets are from now on of the network of ``process``."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/proc/{process}/ns/net").open() as network:
        if libc.setns(network.fileno(), _NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
