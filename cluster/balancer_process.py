"""One balancer process: started, adopted, talked to over its link, started again when it dies, ended.

It is in a session of its own, so that Ctrl-C reaches the supervisor alone, and outlives a supervisor that is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from cluster.events import Tell
from cluster.restart import Backoff
from config.aio import Tasks
from config.files import rewrite
from config.link import LINE_LIMIT, descriptor_path, messages, receive_listener
from config.paths import StateDir, short_socket_path
from config.settings import inherited_environment
from config.topology import BalancerConfig
from worker import run_file as run_files
from worker.process import Handle, read_run_file, spawn
from worker.spec import ProcessId

#: A balancer that served this long (s) before it died is restarted at once.
_SERVED = 10.0


#: Seconds between two tries to start one for which there is no room.
_NO_ROOM_S = 1.0


class Records(Protocol):
    """Where it is written down who runs."""

    async def processes(self) -> dict[str, dict[str, Any]]: ...

    async def save_process(self, name: str, record: Mapping[str, Any]) -> None: ...

    async def forget_process(self, name: str) -> None: ...

    async def next_number(self, key: str) -> int: ...


class Group(Protocol):
    """What one process needs of the group that it belongs to."""

    listener: socket.socket | None

    def greeting(self) -> list[bytes]:
        """What a process that has just been connected to is told, encoded."""

    def heard(self, process: BalancerProcess, message: Mapping[str, Any]) -> None: ...

    def lost(self, process: BalancerProcess) -> None: ...


class BalancerProcess:
    """``name`` is that of its record, run file and log: ``balancer``, ``balancer-1`` …

    ``engaged``: it has been told what there is, so requests may be in flight in it, as ``in_flight`` says (by backend,
    as of the backend set ``version``)."""

    def __init__(
        self, name: str, group: Group, state: StateDir, config: BalancerConfig, store: Records,
        tell: Tell,
    ) -> None:
        self.name = name
        self._group, self._state, self._config, self._store, self._tell = group, state, config, store, tell
        self.handle: Handle | None = None
        self.link: Path | None = None
        self.restarts = 0
        self.engaged = False
        self.version = (0, 0)
        self.in_flight: Mapping[str, int] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._stopping = self._refused = False
        self._tasks = Tasks()

    @property
    def pid(self) -> int | None:
        return self.handle.pid if self.handle else None

    async def adopt(self) -> socket.socket | None:
        """Takes over the process that an earlier supervisor started; returns its listening socket. None: none runs.
        One that does not hand over its socket is hung: it is killed."""
        record = (await self._store.processes()).get(self.name)
        started = run_files.notes(self._state.runs / self.name).get("record")
        if started is not None and (record is None or record["link"] != started["link"]):
            record = started  # it could not be saved
        if record is None:
            return None
        process = ProcessId(**record["process"]) if record["process"] else read_run_file(Path(record["run_file"]))
        if process is None or not (handle := Handle(process)).survivors():
            return None
        link = Path(record["link"])
        try:
            listener = await asyncio.to_thread(receive_listener, link)
        except OSError:
            await asyncio.to_thread(handle.kill_tree)
            return None
        self.handle, self.link, self.engaged = handle, link, True
        return listener

    def start(self) -> None:
        """Runs it from now on."""
        self._tasks.start(self._keep(), f"keep {self.name}")

    def send(self, message: bytes) -> None:
        if self._writer is not None:
            with contextlib.suppress(ConnectionError, RuntimeError):
                self._writer.write(message)

    async def stop(self, grace: float) -> None:
        """Ends it: asked first, killed after ``grace`` seconds."""
        self._stopping = True
        handle = self.handle
        if handle is not None:
            handle.signal(signal.SIGTERM)
            deadline = asyncio.get_running_loop().time() + grace
            while self.handle is not None and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.02)
        await self._tasks.close()
        for left in {handle, self.handle} - {None}:  # the second: one that was being started just now
            while left is not None and len(await asyncio.to_thread(left.kill_tree)):
                await asyncio.sleep(0.02)
        await self._store.forget_process(self.name)
        (self._state.runs / self.name).unlink(missing_ok=True)

    async def close(self) -> None:
        """Leaves it running and lets go of it."""
        await self._tasks.close()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        backoff, failures = Backoff(first=0.2, most=5.0), 0
        while not self._stopping:
            if self.handle is None and not await self._spawned():
                await asyncio.sleep(_NO_ROOM_S)
                continue
            handle, link, began = self.handle, self.link, loop.time()
            assert handle is not None and link is not None
            exited: asyncio.Future[int | None] = loop.create_future()
            handle.watch(lambda status, f=exited: f.done() or f.set_result(status))  # type: ignore[misc]
            talking = self._tasks.start(self._talk(link), f"link of {self.name}")
            status = await exited
            talking.cancel()
            self.handle = None
            await asyncio.to_thread(handle.kill_tree)
            self.engaged, self.version, self.in_flight = False, (0, 0), {}
            self._group.lost(self)
            if self._stopping:
                return
            failures = 0 if loop.time() - began > _SERVED else failures + 1
            delay = backoff.delay(failures - 1, lambda: 0.0)
            self._tell(
                self.name, f"{_ended(handle.pid, status)}; restart in {delay:.1f} s", kind="balancer.restarted",
                data={"pid": handle.pid, "status": status, "delay": round(delay, 3), "restarts": self.restarts + 1},
            )
            self.restarts += 1
            await asyncio.sleep(delay)

    async def _spawned(self) -> bool:
        try:
            await self._spawn()
        except OSError as error:
            if not self._refused:
                self._tell(self.name, f"cannot be started: {error}; it is tried again", kind="balancer.failed")
            self._refused = True
            return False
        self._refused = False
        return True

    async def _spawn(self) -> None:
        listener = self._group.listener
        assert listener is not None
        if self.link is not None:  # of the one before, which may have had no time to clear up
            self.link.unlink(missing_ok=True)
            descriptor_path(self.link).unlink(missing_ok=True)
        link = self._state.link(f"lb-{await self._store.next_number('balancers')}")
        run_file = self._state.runs / self.name
        record = {"process": None, "link": str(link), "run_file": str(run_file)}
        run_files.prepare(run_file, {"record": record})
        await self._store.save_process(self.name, record)
        start = self._state.root / f"{self.name}.json"
        config = replace(self._config, listen_fd=listener.fileno())
        rewrite(start, json.dumps({"link": str(link), **config.to_json()}).encode(), 16 * 1024)
        self.handle = spawn(
            (sys.executable, "-m", "lb", str(start)),
            env={**inherited_environment(), "PYTHONSAFEPATH": "1"}, cwd=self._state.work,
            log=self._state.log(self.name), run_file=run_file, keep=(listener.fileno(),),
        )
        self.link = link
        await self._store.save_process(self.name, {**record, "process": asdict(self.handle.process)})

    async def _talk(self, link: Path) -> None:
        """Connects as often as it takes while the process lives."""
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(short_socket_path(link), limit=LINE_LIMIT)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            self._writer, self.engaged = writer, True
            for word in self._group.greeting():
                self.send(word)
            try:
                async for message in messages(reader):
                    if message["type"] == "report":
                        epoch, revision = message["version"]
                        self.version, self.in_flight = (epoch, revision), message["in_flight"]
                    self._group.heard(self, message)
            finally:
                self._writer = None
                writer.close()


def _ended(pid: int, status: int | None) -> str:
    if status is None:
        return f"ended (pid {pid})"
    return f"killed by signal {-status} (pid {pid})" if status < 0 else f"exited with code {status} (pid {pid})"
