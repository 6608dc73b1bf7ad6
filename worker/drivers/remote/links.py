"""What keeps in touch with every agent: polls it, writes down what its workers log, and says who is lost.

Runs in the loop of `LoopThread`; what others read of it (`RemoteNode`) is replaced, never changed half."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import aiohttp

from config.aio import Tasks
from config.disk import private
from worker.drivers.remote import client, protocol
from worker.drivers.remote.client import AgentRefused, TakenOver, Unreachable
from worker.drivers.remote.memory import remember, remembered
from worker.drivers.remote.node import RemoteNode
from worker.drivers.remote.offers import OFFSET, RANK
from worker.drivers.remote.protocol import AgentAddress, NodePoll, NodeReport, read_node_report

log = logging.getLogger(__name__)

#: How long (s) an answer to a poll may take: what it waits for, and the way.
_POLL_S = protocol.WAIT_S + 1.0

#: Between two looks at who was not heard, two polls that fail, two looks for other nodes (s).
_LOOK_S, _AGAIN_S, _NODES_S = 0.2, 0.2, 1.0

#: How long (s) an agent may take to kill what is left of one start.
_DESTROY_S = 10.0

#: A node that was lost, and that nobody names any more, is shown for so long (s).
_SHOWN_S = 600.0


class Directory(Protocol):
    """Which nodes there are."""

    @property
    def key(self) -> str:
        """Of their agents."""

    @property
    def complete(self) -> bool:
        """Whether a node that `agents` leaves out is gone for good, as far as anybody can know."""

    def agents(self) -> Mapping[str, AgentAddress]:
        """By the name of the node, of all that can be used now; has them started where none runs. Blocks. Raises
        OSError where nobody can say it just now."""

    def end(self) -> None:
        """Nothing of the cluster is needed any more: forgets what was set up. Blocks."""

    def close(self) -> None:
        """Another supervisor may come."""


class AgentLinks:
    """``rank`` and ``lease`` (s) as of a `protocol.NodePoll`."""

    def __init__(self, directory: Directory, rank: int, lease: float, memory: Path | None = None) -> None:
        self._directory, self._rank, self._lease = directory, rank, lease
        self.nodes: dict[str, RemoteNode] = {}
        #: Whether starts that nobody here knows of are to be ended: not before all that there were have been found.
        self.settled = False
        self._memory = memory
        self._ending, self._looking = False, asyncio.Lock()
        #: Why nobody can say which nodes there are; empty where somebody can.
        self._unknown = ""
        self._logs: dict[str, Path] = {}
        self._taken: dict[str, int] = {}
        self._tasks = Tasks()
        self._polling: dict[str, tuple[AgentAddress, asyncio.Task[Any]]] = {}
        self.http: aiohttp.ClientSession | None = None

    async def run(self) -> None:
        """Until cancelled."""
        async with aiohttp.ClientSession(trust_env=False, connector=aiohttp.TCPConnector(limit=0)) as self.http:
            self._tasks.start(self._watch(), "silence of nodes")
            self._follow(remembered(self._memory, self._directory.key))
            try:
                while True:
                    async with self._looking:
                        if not self._ending:
                            await self._look_for_nodes()
                    await asyncio.sleep(_NODES_S)
            finally:
                await self._tasks.close()

    async def look_no_more(self) -> None:
        """Agents are to end: from now on nobody has them started."""
        self._ending = True
        async with self._looking:
            pass

    async def ask(self, node: RemoteNode, path: str, message: Mapping[str, Any], timeout: float) -> dict[str, Any]:
        """Raises AgentRefused, Unreachable."""
        return await client.call(await self._session(), node.address, path, {RANK: self._rank, **message}, timeout)

    async def send(self, node: RemoteNode, path: str, offset: int, data: AsyncIterator[bytes]) -> None:
        """What comes after so many bytes of a file. Raises AgentRefused, Unreachable."""
        query = {RANK: str(self._rank), OFFSET: str(offset)}
        await client.send(await self._session(), node.address, path, query, data)

    async def _session(self) -> aiohttp.ClientSession:
        while self.http is None:
            await asyncio.sleep(0.01)
        return self.http

    def keep_log(self, start: str, path: Path) -> None:
        """Where what it writes is to be appended."""
        self._logs[start] = path

    async def _look_for_nodes(self) -> None:
        try:
            found = await asyncio.to_thread(self._directory.agents)
        except OSError as error:  # go on with those that are known
            if str(error) != self._unknown:
                log.warning("which nodes there are cannot be told: %s", error)
            self._unknown = str(error)
            return
        self._unknown = ""
        news = self._follow(found)
        if self._directory.complete:
            self._mark_absent(found)
        if self._forget(found) or news:
            remember(self._memory, {name: node.address for name, node in self.nodes.items()})

    def _follow(self, found: Mapping[str, AgentAddress]) -> bool:
        """Whether that was news."""
        news = False
        for name, address in found.items():
            known = self._polling.get(name)
            if known is not None and known[0] == address:
                continue
            news = True
            if known is not None:
                known[1].cancel()
                self.nodes[name].address = address
            node = self.nodes.setdefault(name, RemoteNode(name, address, _now()))
            self._polling[name] = address, self._tasks.start(self._poll(node), f"poll {name}")
        return news

    def _mark_absent(self, found: Mapping[str, AgentAddress]) -> None:
        for name, node in self.nodes.items():
            node.absent = name not in found
            if node.absent and node.address in found.values():
                _tell(node.give_up())  # another one has its address, and answers there

    def _forget(self, found: Mapping[str, AgentAddress]) -> bool:
        """The nodes that are gone: lost, and not among those ``found``, where these are all or for some time. Whether
        there were any."""
        gone = [
            name for name, node in self.nodes.items() if node.lost and name not in found
            and (node.absent or _now() - node.heard_at > max(_SHOWN_S, self._lease))
        ]  # fmt: skip
        for name in gone:
            self._polling.pop(name)[1].cancel()
            del self.nodes[name]
            log.info("%s is gone", name)
        return bool(gone)

    async def _poll(self, node: RemoteNode) -> None:
        while True:
            since = node.report.revision if node.report is not None else -1
            poll = NodePoll(self._rank, self._lease, since, self._taken_of(node))
            try:
                answer = await self.ask(node, protocol.POLL, poll.to_json(), _POLL_S)
                await self._take(node, read_node_report(answer))
                continue
            except TakenOver:
                pass  # by the supervisor after this one
            except Unreachable as error:
                node.only_agent = error.refused
            except (AgentRefused, ValueError) as error:
                log.warning("the agent of %s: %s", node.name, error)
            await asyncio.sleep(_AGAIN_S)

    async def _take(self, node: RemoteNode, report: NodeReport) -> None:
        if report.logs:
            await asyncio.to_thread(self._write, report.logs)
        _tell(node.heard(report, _now()))
        if self.settled:
            for start in node.orphans():
                if not await self._destroy(node, start):
                    return
        node.up, node.lost = True, False

    async def _destroy(self, node: RemoteNode, start: str) -> bool:
        """Kills what was given up; whether nothing is left of it. A node is used again when that is so."""
        try:
            while (await self.ask(node, protocol.DESTROY, {"start": start}, _DESTROY_S))["there"]:
                await asyncio.sleep(0.02)
        except OSError:
            return False
        log.info("a worker on %s that was given up has been ended", node.name)
        node.condemned.discard(start)
        return True

    async def _watch(self) -> None:
        while True:
            for node in self.nodes.values():
                _tell(node.silent(_now()))
            await asyncio.sleep(_LOOK_S)

    def _taken_of(self, node: RemoteNode) -> dict[str, int]:
        known = node.report.starts if node.report is not None else {}
        return {start: self._taken[start] for start in known if start in self._taken}

    def _write(self, logs: Mapping[str, tuple[int, str]]) -> None:
        for start, (at, text) in logs.items():
            path = self._logs.get(start)
            if path is None:
                continue
            raw = text.encode(errors="surrogateescape")
            already = max(0, min(len(raw), self._taken.get(start, at) - at))
            self._taken[start] = at + len(raw)
            with contextlib.suppress(OSError), private.open_file(path, "ab") as file:
                file.write(raw[already:])


def _tell(calls: list[Callable[[], None]]) -> None:
    for each in calls:
        each()


def _now() -> float:
    return asyncio.get_running_loop().time()
