"""The only code that spawns, signals and reaps processes. It never decides whether to: the supervisor does.

A worker leads a session of its own, and the session is what is killed and checked: vLLM's EngineCore survives the
death of its API server and keeps the GPU. Output goes straight to a file opened with O_APPEND: a pipe would die with
its reader, and a full one blocks the worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from config.disk import private
from worker import logfile
from worker.drivers import proc, scratch
from worker.drivers import run_file as run_files
from worker.drivers.base import WorkerStats
from worker.drivers.proc import ProcessId
from worker.spec import WorkerEndpoint, WorkerSpec

#: The new process writes its own pid and start time before it becomes the worker, so that a supervisor killed
#: between starting it and writing it down still finds it; one that cannot write it does not become one. In place
#: (``1<>``): emptied first, the file might find no room any more.
_SHIM = 'read -r stat </proc/self/stat && printf "%s\\n" "$stat" 1<>"$0" && exec "$@"'


class Process:
    """A process led by us (a worker of this machine, a balancer): its identity, its end, its session.

    ``on_exit`` is called once, in the event loop, with the exit status as `subprocess` counts it (negative: signal);
    None for an adopted process, whose status only its parent could ask for."""

    def __init__(self, process: ProcessId, popen: subprocess.Popen[bytes] | None = None) -> None:
        self.process = process
        self.popen = popen
        self._pidfd: int | None = None
        self._members: list[int] = []

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def identity(self) -> dict[str, Any]:
        """As JSON, for `find`."""
        return asdict(self.process)

    def watch(self, on_exit: Callable[[int | None], None]) -> None:
        """Needs a running event loop. A process that is already gone is reported in the next turn of the loop."""
        loop = asyncio.get_running_loop()
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except ProcessLookupError:
            loop.call_soon(self._report, on_exit)
            return
        if not proc.alive(self.process):  # the pid was reused, or it is a zombie: pidfd is of no use
            self.unwatch()
            loop.call_soon(self._report, on_exit)
            return

        def readable() -> None:
            self.unwatch()
            self._report(on_exit)

        loop.add_reader(self._pidfd, readable)

    def watch_members(self, on_exit: Callable[[], None]) -> None:
        """Calls ``on_exit`` whenever one of the session's present processes ends: an engine may lose its core and
        go on answering. Replaces an earlier watch; ends with the main process."""
        self._unwatch_members()
        loop = asyncio.get_running_loop()
        for member in self.survivors():
            if member.pid == self.pid:
                continue
            with contextlib.suppress(ProcessLookupError):
                descriptor = os.pidfd_open(member.pid)
                self._members.append(descriptor)
                loop.add_reader(descriptor, self._member_ended, descriptor, on_exit)

    def _member_ended(self, descriptor: int, on_exit: Callable[[], None]) -> None:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)
        self._members.remove(descriptor)
        on_exit()

    def _unwatch_members(self) -> None:
        while self._members:
            descriptor = self._members.pop()
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    def unwatch(self) -> None:
        self._unwatch_members()
        if self._pidfd is not None:
            with contextlib.suppress(RuntimeError):
                asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _report(self, on_exit: Callable[[int | None], None]) -> None:
        """It has ended: says how."""
        on_exit(self.popen.wait(timeout=5) if self.popen is not None else None)

    def signal(self, number: signal.Signals) -> None:
        """To the main process alone: a SIGTERM to the group would break vLLM's own drain."""
        if proc.alive(self.process):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def survivors(self) -> list[ProcessId]:
        """What is left of the session, the main process included. The kernel gives no pid away that is still a
        session's id: a leader that started at another time means that this session is empty since long."""
        leader = proc.stat(self.pid)
        if leader is not None and leader.start_ticks != self.process.start_ticks:
            return []
        return [p.identity for p in proc.sessions([self.pid])[self.pid]]

    def empty(self) -> bool:
        return not self.survivors()

    def kill_tree(self) -> list[ProcessId]:
        """SIGKILL to all of the session; returns what was still there when it was sent. Repeat until empty: a
        process may fork while the list is read."""
        found = self.survivors()
        for process in found:
            if proc.alive(process):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        return found


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


def spawn(
    argv: tuple[str, ...], *, env: dict[str, str], cwd: Path, log: Path, run_file: Path, keep: tuple[int, ...] = ()
) -> Process:
    """Starts ``argv`` in a session of its own with its output appended to ``log``; ``keep`` are descriptors it
    inherits. Raises OSError if no process can be made, or ``run_file`` has no room; a program that is not there ends
    with code 127."""
    run_files.prepare(run_file)
    output = private.descriptor(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        popen = subprocess.Popen(
            ("/bin/sh", "-c", _SHIM, str(run_file), *argv),
            env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True, pass_fds=keep,
        )
    finally:
        os.close(output)
    found = proc.stat(popen.pid)
    return Process(ProcessId(popen.pid, found.start_ticks if found else 0), popen)


def find(identity: Mapping[str, Any] | None, run_file: Path) -> Process | None:
    """What an earlier supervisor started, alive or not: by its ``identity`` or, if it was killed before it wrote that
    down, by what the process itself wrote. None: it was not started."""
    process = ProcessId(**identity) if identity else run_files.read(run_file)
    return None if process is None else Process(process)


def usage(leader: ProcessId, members: Sequence[proc.Stat]) -> WorkerStats:
    """Of a session, or of one process that is all of ``members``."""
    return WorkerStats(
        leader, {member.identity: member.cpu for member in members}, sum(member.rss for member in members),
        sum(proc.open_files(member.pid) for member in members),
    )


def usage_of(pids: Mapping[str, int]) -> dict[str, WorkerStats]:
    """What each of these single processes uses; nothing of those that are gone."""
    found = {name: proc.stat(pid) for name, pid in pids.items()}
    return {name: usage(stat.identity, [stat]) for name, stat in found.items() if stat is not None and stat.alive}
