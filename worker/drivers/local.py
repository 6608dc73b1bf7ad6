"""Workers as processes of this machine, on its loopback interface unless another is named."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from worker import logfile
from worker.drivers import forked, proc, run_file, scratch
from worker.drivers.base import Handle, WorkerStats
from worker.drivers.forked import ForkFailed
from worker.drivers.proc import ProcessId
from worker.drivers.process import LocalHandle, find, spawn, usage
from worker.spec import LOOPBACK, WorkerEndpoint, WorkerSpec

#: No port below it is given to a worker.
_LOWEST = 20_000

#: So many ports are tried.
_TRIES = 256


class LocalDriver:
    """Workers listen on ``host``. ``random``: which free ports are tried first. ``on_failed_fork`` is told, in whatever
    thread calls `start`, which zygote did not fork a worker that it was asked for, and why: that one was
    started plainly."""

    waits = False

    def __init__(self, random: Random | None = None, host: str = LOOPBACK) -> None:
        self._random, self._host = random or Random(), host
        self.on_failed_fork: Callable[[Path, ForkFailed], None] = lambda zygote, error: None

    def boot(self) -> str:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def reserve(self, taken: Collection[WorkerEndpoint]) -> WorkerEndpoint:
        return WorkerEndpoint(
            free_port({endpoint.port for endpoint in taken}, self._random, self._host), self._host
        )

    def prepare(self, path: Path, record: Mapping[str, Any] | None = None) -> None:
        run_file.prepare(path, {} if record is None else {"record": record})

    def prepared(self, path: Path) -> dict[str, Any] | None:
        return run_file.notes(path).get("record")

    def start(self, spec: WorkerSpec, title: str) -> LocalHandle:
        logfile.note(spec.log, title)
        if (folder := scratch.make(spec)) is not None:
            spec = replace(spec, env={**spec.env, "TMPDIR": str(folder)})
        try:
            return self._start(spec)
        except OSError:
            scratch.remove(spec)
            raise

    def _start(self, spec: WorkerSpec) -> LocalHandle:
        if spec.zygote is not None:
            try:
                return forked.start(spec.zygote, spec)
            except ForkFailed as error:
                self.on_failed_fork(spec.zygote, error)
        started = spawn(spec.argv, env=spec.env, cwd=spec.cwd, log=spec.log, run_file=spec.run_file)
        return LocalHandle(started.process, spec, started.popen)

    def recover(self, spec: WorkerSpec, identity: Mapping[str, Any] | None) -> LocalHandle | None:
        found = find(identity, spec.run_file)
        return None if found is None else LocalHandle(found.process, spec)

    def stats(self, handles: Mapping[str, Handle]) -> dict[str, WorkerStats]:
        leaders = {name: ProcessId(**handle.identity) for name, handle in handles.items()}
        members = proc.sessions(leader.pid for leader in leaders.values())
        return {name: usage(leader, members[leader.pid]) for name, leader in leaders.items()}

    def expect(self, workers: int) -> None:
        """This machine is as large as it is."""

    def end(self) -> None:
        """Nothing was."""

    def close(self) -> None:
        """Nothing is open."""


def survivors(runs: Path) -> dict[str, tuple[int, ...]]:
    """The living processes of what wrote itself down in the folder ``runs``, by the names of these files."""
    try:
        files = sorted(runs.iterdir())
    except OSError:
        return {}
    found = {file.name: find(None, file) for file in files}
    left = {name: process.survivors() for name, process in found.items() if process is not None}
    return {name: tuple(member.pid for member in members) for name, members in left.items() if members}


def free_port(taken: Collection[int], random: Random, host: str = LOOPBACK) -> int:
    """One of ``host`` that nobody listens on and that is not in ``taken``. Raises OSError if there is
    none.

    Between this look and the worker's own bind somebody else may take it; the worker then fails to start and is
    restarted on another."""
    ports = [p for p in range(_LOWEST, _ephemeral_start()) if p not in taken]
    for port in _free(random.sample(ports, min(len(ports), _TRIES)), host):
        return port
    raise OSError("no free port for a worker")


def free_ports(most: int, random: Random, host: str) -> tuple[int, ...]:
    """At most so many of ``host``, as `free_port`."""
    return tuple(islice(_free(random.sample(range(_LOWEST, _ephemeral_start()), _TRIES), host), most))


def _free(ports: list[int], host: str) -> Iterator[int]:
    for port in ports:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
                yield port
            except OSError:
                continue


def _ephemeral_start() -> int:
    try:
        first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 32_768
    return first if first > _LOWEST + 1000 else 61_000
