"""One start of a worker on another machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from worker import logfile
from worker.drivers.remote import protocol
from worker.drivers.remote.client import TakenOver, Unreachable
from worker.drivers.remote.links import AgentLinks
from worker.drivers.remote.node import EndWatch, RemoteNode
from worker.drivers.remote.transfers import AdapterTransfers
from worker.loop_thread import LoopThread
from worker.spec import WorkerEndpoint

#: How long (s) an agent may take to answer.
ANSWER_S = 5.0


class RemoteHandle:
    """``start`` on ``node``; its log is brought here, to ``log``."""

    def __init__(
        self, thread: LoopThread, links: AgentLinks, transfers: AdapterTransfers, node: RemoteNode, start: str,
        pid: int | None, endpoint: WorkerEndpoint, log: Path,
    ) -> None:
        self._thread, self._links, self._transfers, self.node, self.start = thread, links, transfers, node, start
        self._pid, self._endpoint, self._log = pid, endpoint, log
        self._on_exit: Callable[[int | None], None] | None = None
        self._on_member: Callable[[], None] | None = None
        self._emptied = False
        links.keep_log(start, log)

    @property
    def pid(self) -> int | None:
        return self._pid

    @property
    def identity(self) -> dict[str, Any]:
        return {"node": self.node.name, "start": self.start, "pid": self._pid}

    @property
    def endpoint(self) -> WorkerEndpoint:
        return self._endpoint

    def watch(self, on_exit: Callable[[int | None], None]) -> None:
        loop = asyncio.get_running_loop()
        self._on_exit = on_exit

        def ended(status: int | None) -> None:
            _in(loop, self._ended, status)

        def member() -> None:
            _in(loop, self._member_ended)

        def watch() -> None:
            seen = self.node.seen(self.start)
            for each in self.node.watch(self.start, EndWatch(ended, member, seen.members if seen else 0)):
                each()

        self._thread.loop.call_soon_threadsafe(watch)

    def watch_members(self, on_exit: Callable[[], None]) -> None:
        self._on_member = on_exit
        self._tell(protocol.MEMBERS)

    def unwatch(self) -> None:
        self._on_exit, self._on_member = None, None
        self._thread.loop.call_soon_threadsafe(lambda: self.node.watches.pop(self.start, None))

    def stop(self) -> None:
        self._tell(protocol.STOP)

    @property
    def over(self) -> bool:
        """Whether it is known that nothing is left, or the node is lost and what is left there is ended by others."""
        return self._emptied or self.start in self.node.gone

    def destroy(self) -> bool:
        there = bool(self._ask(protocol.DESTROY, "there", False, True))
        self._emptied = not there
        return there

    def empty(self) -> bool:
        self._emptied = bool(self._ask(protocol.EMPTY, "empty", True, False))
        return self._emptied

    def logs(self, lines: int) -> list[str]:
        return logfile.tail(self._log, lines)

    async def provide(self, folder: Path, held: Collection[Path]) -> Path:
        if not self._transfers.has(folder):
            return folder  # no content of ours: it lies there, too, or the worker says that it does not
        if self.start in self.node.gone:
            raise Unreachable(f"{self.node.name} is lost")
        return await self._thread.awaited(self._transfers.provide(self.node, self.start, folder, held))

    def origin(self, path: str) -> str:
        return self._transfers.origin(self.node, path)

    def _ask(self, path: str, what: str, over: bool, unknown: bool) -> Any:
        """``over``: the answer where nothing of it can be reached; ``unknown``: where nobody can say it yet."""
        if self.start in self.node.gone:
            return over
        try:
            message = {"start": self.start}
            return self._thread.call(self._links.ask(self.node, path, message, ANSWER_S), 2 * ANSWER_S)[what]
        except TakenOver:
            return over  # it is another supervisor's now
        except OSError:
            return over if self.start in self.node.gone else unknown

    def _tell(self, path: str) -> None:
        """Without an answer: one that is not reached is found to be lost."""

        async def tell() -> None:
            try:
                await self._links.ask(self.node, path, {"start": self.start}, ANSWER_S)
            except OSError:
                pass

        self._thread.begin(tell, f"{path} {self.start}")

    def _ended(self, status: int | None) -> None:
        on_exit, self._on_exit = self._on_exit, None
        if on_exit is not None:
            on_exit(status)

    def _member_ended(self) -> None:
        if self._on_member is not None:
            self._on_member()


def _in(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *args: Any) -> None:
    try:
        loop.call_soon_threadsafe(call, *args)
    except RuntimeError:  # that loop has ended, and with it whoever watched
        pass
