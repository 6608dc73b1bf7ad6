"""Workers on other machines, each with an agent that starts them as `worker.drivers.local` does here."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from worker.drivers import run_file
from worker.drivers.base import Handle, WorkerStats
from worker.drivers.nodes import HeldPlace, NodeStatus, PlaceKeeper, WorkerNeed, WorkerPlace, own_gpus
from worker.drivers.remote import protocol
from worker.drivers.remote.client import Unreachable
from worker.drivers.remote.handle import ANSWER_S, RemoteHandle
from worker.drivers.remote.links import AgentLinks, Directory
from worker.drivers.remote.node import LOST_S, RemoteNode
from worker.drivers.remote.protocol import Order, StartReport
from worker.drivers.remote.transfers import AdapterTransfers
from worker.loop_thread import LoopThread
from worker.spec import WorkerEndpoint, WorkerSpec

#: How long (s) a start may take until its process is there, and a look for nodes that is under way when all is to end.
_START_S, _LOOK_S = 15.0, 2.0


class RemoteDriver:
    """On the nodes of ``directory``. ``lease``: seconds for which workers live on without a word from a supervisor.
    ``memory``: a file in which it is kept where agents listen, so that they are found though nobody can say it then.
    ``adapters``: the folder of those that are brought to nodes, each of which keeps ``most_adapters`` bytes of them.
    ``places``: who holds what workers need there."""

    waits = True

    def __init__(
        self, directory: Directory, lease: float = 120.0, memory: Path | None = None,
        adapters: Path = Path("/nowhere"), most_adapters: int = 32 * 1024**3, places: PlaceKeeper | None = None,
    ) -> None:
        self.directory, self._lease, self._places = directory, lease, places
        self._links = AgentLinks(directory, time.time_ns(), lease, memory)
        self._transfers = AdapterTransfers(self._links, adapters, most_adapters)
        self._thread = LoopThread("agents")
        self._thread.begin(self._links.run, "agents")

    def boot(self) -> str:
        """Always the same: machines start anew one by one, and their agents tell what has ended."""
        return "agents"

    def reserve(self, taken: Collection[WorkerEndpoint]) -> WorkerEndpoint:
        """On the node with the fewest of ``taken``."""
        for node in self._usable(taken):
            if (found := _free_port(node, taken)) is not None:
                return found
        raise OSError("no node is there that a worker could be started on")

    def place(self, name: str, need: WorkerNeed, taken: Mapping[str, WorkerPlace]) -> WorkerPlace:
        endpoints = [place.endpoint for place in taken.values()]
        if not need or self._places is None:
            return WorkerPlace(self.reserve(endpoints))
        nodes = {node.address.host: node for node in self._usable(endpoints)}
        if not nodes:
            raise OSError("no node is there that a worker could be started on")
        host, held = self._places.place(name, need, list(nodes))
        if (endpoint := _free_port(nodes[host], endpoints)) is None:
            raise OSError(f"{host} has no port free")
        used = [gpu for place in taken.values() if place.endpoint.host == host for gpu in place.gpus]
        gpus = own_gpus([gpu for each in held.values() for gpu in each], used, len(held[name]))
        return WorkerPlace(endpoint, gpus)

    def keep(self, places: Mapping[str, HeldPlace]) -> None:
        if self._places is not None:
            self._places.keep(places)

    def nodes(self) -> list[NodeStatus]:
        gpus, now = self._places.gpus() if self._places is not None else {}, time.monotonic()
        return [
            NodeStatus(
                node.name, node.address.host, node.state, round(max(0.0, now - node.heard_at), 1), self._lease,
                node.address.url, *gpus.get(node.address.host, (None, None)),
            )
            for _, node in sorted(self._links.nodes.items())
        ]  # fmt: skip

    def nodes_up(self) -> list[str]:
        """On which workers may be started now."""
        return [node.name for node in self._links.nodes.values() if node.up]

    def prepare(self, path: Path, record: Mapping[str, Any] | None = None) -> None:
        notes = {} if record is None else {"record": record, "start": uuid.uuid4().hex}
        run_file.prepare(path, notes)

    def prepared(self, path: Path) -> dict[str, Any] | None:
        return run_file.notes(path).get("record")

    def start(self, spec: WorkerSpec, title: str) -> RemoteHandle:
        host, nodes = spec.endpoint.host, self._links.nodes.values()
        node = next((node for node in nodes if node.up and node.address.host == host), None)
        start = run_file.notes(spec.run_file).get("start")
        if node is None or not isinstance(start, str):
            raise OSError(f"no node is there at {spec.endpoint.host}, or the start was not prepared")
        order = Order(
            start, spec.run_file.name, spec.incarnation, spec.argv, spec.env, spec.endpoint.port, title
        )
        node.mine.add(start)
        try:
            self._links.keep_log(start, spec.log)
            answer = self._thread.call(self._links.ask(node, protocol.START, order.to_json(), _START_S), 2 * _START_S)
            started = StartReport(**answer["started"])
        except (OSError, KeyError, TypeError):
            node.mine.discard(start)  # should it have been started after all, it is ended
            raise
        self._thread.loop.call_soon_threadsafe(node.started, start, int(answer["revision"]), started)
        return self._handle(node, start, started.pid, spec)

    def recover(self, spec: WorkerSpec, identity: Mapping[str, Any] | None) -> RemoteHandle | None:
        """Waits for the agents that are not heard of yet."""
        start = identity["start"] if identity else run_file.notes(spec.run_file).get("start")
        if not isinstance(start, str):
            return None
        self._wait_for_nodes()
        node = self._node_of(start, identity)
        if node is None:
            return None
        node.mine.add(start)
        seen = node.seen(start)
        return self._handle(node, start, seen.pid if seen else (identity or {}).get("pid"), spec)

    def stats(self, handles: Mapping[str, Handle]) -> dict[str, WorkerStats]:
        return {name: _stats(handle) for name, handle in handles.items() if isinstance(handle, RemoteHandle)}

    def expect(self, workers: int) -> None:
        """Which nodes there are is decided elsewhere."""

    def close(self) -> None:
        """Workers and agents go on."""
        self._thread.close()
        self.directory.close()

    def end(self) -> None:
        """Nothing of the cluster is needed any more: the agents end as well. Blocks."""
        with contextlib.suppress(OSError):
            self._thread.call(self._links.look_no_more(), _LOOK_S)
        ending, deadline = list(self._links.nodes.values()), time.monotonic() + 2 * ANSWER_S
        while ending and time.monotonic() < deadline:  # what cannot be reached ends with its lease
            ending = [node for node in ending if not self._ended(node)]
            time.sleep(0.02)
        self.directory.end()

    def _ended(self, node: RemoteNode) -> bool:
        """Asks its agent to end: whether there is none any more or to be asked, or one that stays without workers."""
        try:
            answer = self._thread.call(self._links.ask(node, protocol.END, {}, ANSWER_S), ANSWER_S)
        except Unreachable as error:
            return error.refused or node.lost
        except OSError:
            return True
        return answer.get("stays") is True

    def _handle(self, node: RemoteNode, start: str, pid: int | None, spec: WorkerSpec) -> RemoteHandle:
        return RemoteHandle(self._thread, self._links, self._transfers, node, start, pid, spec.endpoint, spec.log)

    def _usable(self, taken: Collection[WorkerEndpoint]) -> list[RemoteNode]:
        """The nodes where workers may be started now, first that with the fewest of ``taken``."""
        self._links.settled = True
        self._wait_for_nodes()  # all of them, or the first workers would crowd on those that answer first
        there = Counter(endpoint.host for endpoint in taken)
        usable = [node for node in self._links.nodes.values() if node.up]
        return sorted(usable, key=lambda node: (there[node.address.host], node.name))

    def _node_of(self, start: str, identity: Mapping[str, Any] | None) -> RemoteNode | None:
        nodes = self._links.nodes
        if identity:
            return nodes.get(identity["node"])
        return next((node for node in nodes.values() if node.seen(start) is not None), None)

    def _wait_for_nodes(self) -> None:
        """Blocks until each can be used, or is lost."""
        deadline = time.monotonic() + LOST_S + 1
        while time.monotonic() < deadline:
            nodes = list(self._links.nodes.values())
            if nodes and all(node.up or node.lost for node in nodes):
                return
            time.sleep(0.02)


def _free_port(node: RemoteNode, taken: Collection[WorkerEndpoint]) -> WorkerEndpoint | None:
    for port in node.report.ports if node.report is not None else ():
        if (found := WorkerEndpoint(port, node.address.host)) not in taken:
            return found
    return None


def _stats(handle: RemoteHandle) -> WorkerStats:
    seen = handle.node.seen(handle.start)
    if seen is None or handle.over:
        return WorkerStats(handle.start, {}, 0, 0)
    return WorkerStats(handle.start, seen.cpu, seen.memory, seen.files)
