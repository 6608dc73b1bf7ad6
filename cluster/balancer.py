"""Keeps the balancer processes alive on one listening socket that stays open, and talks to them as if they were one.

The next supervisor takes the listening socket back from any of them that lives before it could die as well.
"""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cluster.balancer_process import BalancerProcess, Records
from cluster.events import Event, Tell
from config.errors import UsageError
from config.link import descriptor_path, encode
from config.paths import StateDir
from config.topology import BackendSet, BalancerConfig

RECORD = "balancer"


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
    """``config.processes`` balancer processes. ``on_report`` gets (version, in-flight by backend, last use by adapter):
    the version that every process has confirmed, what is in flight in all of them; ``on_lost`` is called when the last
    process that may have had requests is gone; ``tell`` gets sentences for people; ``on_want`` the name of an adapter
    that is asked for and that no worker holds; ``on_outcome`` what became of requests on a lost worker. ``events()``:
    what a new process is told has happened."""

    def __init__(
        self, state: StateDir, config: BalancerConfig, store: Records,
        on_report: Callable[[tuple[int, int], Mapping[str, int], Mapping[str, float]], None],
        on_lost: Callable[[], None], tell: Tell, on_want: Callable[[str], None],
        on_outcome: Callable[[Mapping[str, Any]], None] = lambda message: None,
    ) -> None:
        self._state = state
        self._on_report, self._on_lost, self._on_want = on_report, on_lost, on_want
        self._on_outcome = on_outcome
        self.events: Callable[[], Iterable[Event]] = tuple
        self.listener: socket.socket | None = None
        names = [f"{RECORD}-{number}" if number else RECORD for number in range(config.processes)]
        self.processes = [BalancerProcess(name, self, state, config, store, tell) for name in names]
        self._set: BackendSet | None = None
        self._snapshot: dict[str, Any] = {}

    @property
    def connected(self) -> bool:
        """Whether requests may be in flight in any of them."""
        return any(process.engaged for process in self.processes)

    @property
    def restarts(self) -> int:
        return sum(process.restarts for process in self.processes)

    async def adopt(self) -> bool:
        """Takes over what an earlier supervisor started, and the listening socket. False: nothing of it runs."""
        for process in self.processes:
            listener = await process.adopt()
            if self.listener is None:
                self.listener = listener
            elif listener is not None:
                listener.close()  # the same socket once more
        return self.listener is not None

    def start(self) -> None:
        """Runs them from now on. Needs `listener`."""
        kept = {process.link for process in self.processes}
        kept |= {descriptor_path(link) for link in kept if link is not None}
        for path in self._state.root.glob("lb-*.sock*"):
            if path not in kept:  # left by a cluster that was killed as a whole
                path.unlink(missing_ok=True)
        for process in self.processes:
            process.start()

    def publish(self, backends: BackendSet | None = None, snapshot: dict[str, Any] | None = None) -> None:
        """Tells them what is new; each is told the latest again whenever it comes back."""
        messages = []
        if backends is not None:
            self._set = backends
            messages.append(encode({"type": "set", "set": backends.to_json()}))
        if snapshot is not None:
            self._snapshot = snapshot
            messages.append(encode({"type": "snapshot", "snapshot": snapshot}))
        for message in messages:
            for process in self.processes:
                process.send(message)

    def happened(self, event: Event) -> None:
        """Passes an event on to whoever listens there."""
        message = _events([event])
        for process in self.processes:
            process.send(message)

    @property
    def engaged(self) -> int:
        """In how many of them requests may be in flight."""
        return sum(process.engaged for process in self.processes)

    async def stop(self, grace: float) -> None:
        """Ends them all: asked first, killed after ``grace`` seconds."""
        await asyncio.gather(*(process.stop(grace) for process in self.processes))
        if self.listener is not None:
            self.listener.close()

    async def close(self) -> None:
        """Leaves them running and lets go of them."""
        for process in self.processes:
            await process.close()

    # for its processes

    def greeting(self) -> list[bytes]:
        backends = [] if self._set is None else [encode({"type": "set", "set": self._set.to_json()})]
        return [
            *backends, encode({"type": "snapshot", "snapshot": self._snapshot}), _events(self.events()),
        ]  # fmt: skip

    def heard(self, process: BalancerProcess, message: Mapping[str, Any]) -> None:
        if message["type"] == "report":
            self._report(message.get("used", {}))
        elif message["type"] == "want":
            self._on_want(message["adapter"])
        elif message["type"] == "outcome":
            self._on_outcome(message)

    def lost(self, process: BalancerProcess) -> None:
        """What was in flight in it is over; what the others have is not."""
        if self.connected:
            self._report({})
        else:
            self._on_lost()

    def _report(self, used: Mapping[str, float]) -> None:
        """One that has not said a word yet has confirmed nothing: it was adopted, and may be at anything."""
        engaged = [process for process in self.processes if process.engaged]
        in_flight: Counter[str] = Counter()
        for process in engaged:
            in_flight.update(process.in_flight)
        self._on_report(min(process.version for process in engaged), in_flight, used)


def _events(events: Iterable[Event]) -> bytes:
    return encode({"type": "events", "events": [event.wire() for event in events]})
