"""The cluster under test, seen from beside it: its status many times a second, and the end of what is awaited."""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from chaos.wire import Answer, Client, request
from harness import Cluster

Status = dict[str, Any]
#: Between two looks at the status; s.
_EVERY = 0.04
_MOVED = re.compile(r"^clusterctl_streams_moved_total(?:\{[^}]*\})? (\S+)", re.M)


@dataclass
class Arena:
    """Everything a fault needs. ``losses``: when a balancer was killed, and when nothing was left of it; ``busy``: the
    workers that somebody is at; ``servers``: those of `chaos.foreign`, if the workers are attached; ``floor``: fewest
    ready workers since it was last set; ``strict``: promises of time are held to."""

    cluster: Cluster
    engine: str
    instances: int
    up: tuple[str, ...]
    stall_timeout: float
    chooser: random.Random
    status: Status | None = None
    losses: list[list[float]] = field(default_factory=list)
    busy: set[str] = field(default_factory=set)
    disk: str = ""
    servers: Sequence[Any] = ()
    strict: bool = True
    floor: int = 0
    _moved_before: float = 0.0
    _moved: float = 0.0
    _looked: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def port(self) -> int:
        return self.cluster.port

    async def post(self, path: str, body: Any) -> Answer:
        client = Client(self.port, quiet=120)
        try:
            return await client.ask(request("POST", path, body))
        finally:
            client.close()

    async def tell_worker(self, instance: str, method: str, path: str, body: Any = None) -> Any:
        """Talks to a simulated worker behind the cluster's back; None where it does not answer."""
        client = Client(self.instance(instance)["port"], quiet=2)
        try:
            answer = await client.ask(request(method, path, body, self.cluster.worker_key(instance)))
            return answer.json() if not answer.problem and answer.status == 200 else None
        finally:
            client.close()

    def instance(self, name: str) -> Status:
        found: Status = (self.status or {"instances": {}})["instances"].get(name, {})
        return found

    def ready(self, served: float = 0.0) -> list[str]:
        """The workers in rotation that have served so long (s) and that nobody is at."""
        instances = (self.status or {"instances": {}})["instances"]
        return [
            name for name, i in instances.items()
            if i["is_running"] and (i.get("ready_for_s") or 0) >= served and name not in self.busy
        ]  # fmt: skip

    async def until(self, seen: Callable[[Status], bool], timeout: float) -> float | None:
        """The time at which the status first showed what ``seen`` looks for; None after ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while time.monotonic() < deadline:
                    await self._looked.wait()
                    if self.status is not None and seen(self.status):
                        return time.monotonic()
        return None

    def whole(self, status: Status) -> bool:
        """Every wanted worker is ready and nothing is on its way."""
        settled = status["supervisor"]["pid"] and status["supervisor"]["settled"]
        return bool(settled) and status["running_instances"] == status["total_instances"]

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """The status is kept up to date within."""
        task = asyncio.create_task(self._watch(), name="watch")
        try:
            await self.until(lambda _: True, 10)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self) -> None:
        client, data = Client(self.port, quiet=2), request("GET", "/v1/cluster/status")
        try:
            while True:
                answer = await client.ask(data)
                self.status = answer.json() if not answer.problem and answer.status == 200 else None
                if self.status is not None:
                    self._remember(self.status)
                self._looked.set()
                self._looked = asyncio.Event()
                await asyncio.sleep(_EVERY)
        finally:
            client.close()

    def _remember(self, status: Status) -> None:
        self.floor = min(self.floor, status["running_instances"])
        pids = [status["supervisor"]["pid"], *(process["pid"] for process in status["load_balancer"]["processes"])]
        pids += [i["pid"] for i in status["instances"].values()]
        self.cluster.seen.update(pid for pid in pids if pid)

    def was_lost(self, answer: Answer) -> bool:
        """Whether its connection was made to a balancer that was killed meanwhile."""
        return any(began <= answer.ended and answer.connected <= gone for began, gone in self.losses)

    async def repair(self, patience: float) -> None:
        """After a promise was broken: what comes next shall find a whole cluster, as far as that can be had."""
        if await self.until(self.whole, 5) is None:
            await asyncio.to_thread(self.cluster.up, *self.up)  # where the supervisor is gone; else it is refused
            await self.until(self.whole, patience)

    async def moved(self) -> float | None:
        """Streams moved so far, over all balancers there were; None where the balancer does not count them."""
        client = Client(self.port, quiet=10)
        answer = await client.ask(request("GET", "/metrics"))
        client.close()
        text = answer.body.decode(errors="replace")
        if answer.problem or "clusterctl_streams_moved" not in text:
            return None
        now = sum(float(value) for value in _MOVED.findall(text))
        self._moved += now - self._moved_before if now >= self._moved_before else now
        self._moved_before = now
        return self._moved
