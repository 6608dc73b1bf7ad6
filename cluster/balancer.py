"""Keeps the balancer process alive on a listening socket that stays open, and talks to it.

The balancer is in a session of its own, so that Ctrl-C reaches the supervisor alone, and outlives a supervisor that
is killed. The next supervisor takes the listening socket back from it before it could die as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cluster.restart import Backoff
from cluster.store import Store
from config.aio import Tasks
from config.errors import UsageError
from config.link import encode, messages, receive_listener
from config.paths import StateDir, short_socket_path
from config.settings import inherited_environment
from config.topology import BackendSet, BalancerConfig
from worker.process import Handle, read_run_file, spawn
from worker.spec import ProcessId

RECORD = "balancer"

#: A balancer that served this long (s) before it died is restarted at once.
_SERVED = 10.0


def listen(host: str, port: int) -> socket.socket:
    """The socket that clients connect to. Raises UsageError where the address cannot be had."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise UsageError(f"--host {host}: {error.strerror}") from None
    except UnicodeError:
        raise UsageError(f"--host {host}: not a host name") from None
    listener = socket.socket(family, kind, proto)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(4096)
    except OSError as error:
        listener.close()
        raise UsageError(f"cannot listen on {host}:{port}: {error.strerror}") from None
    listener.setblocking(False)
    return listener


class BalancerKeeper:
    """One balancer process. ``on_report`` gets (version, in-flight by backend, last use by adapter); ``on_lost`` is
    called when the process is gone; ``tell`` gets sentences for people; ``on_want`` the name of an adapter that is
    asked for and that no worker holds."""

    def __init__(
        self, state: StateDir, config: BalancerConfig, store: Store,
        on_report: Callable[[tuple[int, int], Mapping[str, int], Mapping[str, float]], None],
        on_lost: Callable[[], None], tell: Callable[[str, str], None], on_want: Callable[[str], None],
    ) -> None:
        self._state, self._config, self._store = state, config, store
        self._on_report, self._on_lost, self._tell, self._on_want = on_report, on_lost, tell, on_want
        self.listener: socket.socket | None = None
        self.handle: Handle | None = None
        self.restarts = 0
        self._link: Path | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._set: BackendSet | None = None
        self._snapshot: dict[str, Any] = {}
        self._stopping = False
        self._tasks = Tasks()

    @property
    def connected(self) -> bool:
        return self._writer is not None

    @property
    def pid(self) -> int | None:
        return self.handle.pid if self.handle else None

    async def adopt(self) -> bool:
        """Takes over a balancer that an earlier supervisor started, and its listening socket. False: none runs.
        One that does not hand over its socket is hung: it is killed."""
        record = (await self._store.processes()).get(RECORD)
        if record is None:
            return False
        process = ProcessId(**record["process"]) if record["process"] else read_run_file(Path(record["run_file"]))
        if process is None or not (handle := Handle(process)).survivors():
            return False
        link = Path(record["link"])
        try:
            self.listener = await asyncio.to_thread(receive_listener, link)
        except OSError:
            await asyncio.to_thread(handle.kill_tree)
            return False
        self.handle, self._link = handle, link
        return True

    def start(self) -> None:
        """Runs the balancer from now on. Needs `listener`."""
        self._tasks.start(self._keep(), "keep the balancer")

    def publish(self, backends: BackendSet | None = None, snapshot: dict[str, Any] | None = None) -> None:
        """Tells the balancer what is new; it is told the latest again whenever it comes back."""
        if backends is not None:
            self._set = backends
            self._send({"type": "set", "set": backends.to_json()})
        if snapshot is not None:
            self._snapshot = snapshot
            self._send({"type": "snapshot", "snapshot": snapshot})

    async def stop(self, grace: float) -> None:
        """Ends the balancer: asked first, killed after ``grace`` seconds."""
        self._stopping = True
        handle = self.handle
        if handle is not None:
            handle.signal(signal.SIGTERM)
            deadline = asyncio.get_running_loop().time() + grace
            while self.handle is not None and asyncio.get_running_loop().time() < deadline:
                await asyncio.sleep(0.02)
            while await asyncio.to_thread(handle.kill_tree):
                await asyncio.sleep(0.02)
        await self._tasks.close()
        if self.listener is not None:
            self.listener.close()
        await self._store.forget_process(RECORD)

    async def close(self) -> None:
        """Leaves the balancer running and lets go of it."""
        await self._tasks.close()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        backoff, failures = Backoff(first=0.2, most=5.0), 0
        while not self._stopping:
            if self.handle is None:
                await self._spawn()
            handle, link, began = self.handle, self._link, loop.time()
            assert handle is not None and link is not None
            exited: asyncio.Future[int | None] = loop.create_future()
            handle.watch(lambda status, f=exited: f.done() or f.set_result(status))  # type: ignore[misc]
            talking = self._tasks.start(self._talk(link), "balancer link")
            status = await exited
            talking.cancel()
            self.handle = None
            await asyncio.to_thread(handle.kill_tree)
            self._on_lost()
            if self._stopping:
                return
            failures = 0 if loop.time() - began > _SERVED else failures + 1
            delay = backoff.delay(failures - 1, lambda: 0.0)
            self._tell("balancer", f"ended (pid {handle.pid}, status {status}); restart in {delay:.1f} s")
            self.restarts += 1
            await asyncio.sleep(delay)

    async def _spawn(self) -> None:
        assert self.listener is not None
        name = f"lb-{await self._store.next_number('balancers')}"
        link, run_file = self._state.link(name), self._state.runs / "balancer"
        for stale in self._state.root.glob("lb-*.sock*"):
            stale.unlink(missing_ok=True)
        record = {"process": None, "link": str(link), "run_file": str(run_file)}
        run_file.unlink(missing_ok=True)
        await self._store.save_process(RECORD, record)
        start = self._state.root / "balancer.json"
        start.touch(mode=0o600)
        config = replace(self._config, listen_fd=self.listener.fileno())
        start.write_text(json.dumps({"link": str(link), **config.to_json()}))
        self.handle = spawn(
            (sys.executable, "-m", "lb", str(start)),
            env={**inherited_environment(), "PYTHONSAFEPATH": "1"}, cwd=self._state.work,
            log=self._state.log("balancer"), run_file=run_file, keep=(self.listener.fileno(),),
        )
        self._link = link
        await self._store.save_process(RECORD, {**record, "process": asdict(self.handle.process)})

    async def _talk(self, link: Path) -> None:
        """Connects as often as it takes while the process lives."""
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(short_socket_path(link), limit=2**26)
            except OSError:
                await asyncio.sleep(0.02)
                continue
            self._writer = writer
            self.publish(self._set, self._snapshot)
            try:
                async for message in messages(reader):
                    if message["type"] == "report":
                        epoch, revision = message["version"]
                        self._on_report((epoch, revision), message["in_flight"], message.get("used", {}))
                    elif message["type"] == "want":
                        self._on_want(message["adapter"])
            finally:
                self._writer = None
                writer.close()

    def _send(self, message: Mapping[str, Any]) -> None:
        if self._writer is not None:
            with contextlib.suppress(ConnectionError, RuntimeError):
                self._writer.write(encode(message))
