"""The agent's server: who has the key asks, one supervisor at a time is listened to, and without any its workers end.

Nothing here decides: what is started and ended is what a supervisor asks for, but for workers whose lease is over. A
host that is cut off from its supervisor must not go on for ever with what is being replaced elsewhere."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from aiohttp import web

from config import bounded
from config.aio import Tasks
from worker.agent import readiness
from worker.agent.cache import AdapterCache
from worker.agent.lease import NodeLease, Outranked
from worker.agent.starts import Busy, Starts
from worker.agent.uploads import AdapterUploads
from worker.drivers.remote import offers, protocol
from worker.drivers.remote.protocol import NodeReport, read_order, read_poll, read_start

log = logging.getLogger(__name__)

#: Between two looks at the lease, and at logs that have grown long (s).
_LOOK_S, _ROTATE_S = 0.25, 5.0

#: JSON values in a message.
_VALUES = 20_000

_Do = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
_Answer = Callable[[web.Request], Awaitable[dict[str, Any]]]


class Agent:
    """``key``: of who may ask. ``starts`` is told of news through `changed`; `ended` is set when all is over, which for
    one that ``stays`` is so only after `leave`."""

    def __init__(
        self, key: str, lease: NodeLease, starts: Callable[[Callable[[], None]], Starts], cache: AdapterCache,
        stays: bool = False,
    ) -> None:
        self._key, self._lease, self._stays = key.encode(), lease, stays
        self._starts = starts(self.changed)
        self._uploads = AdapterUploads(cache, self._starts.living)
        self._revision = time.time_ns()  # above that of an agent before this one
        self._news = asyncio.Event()
        self._leaving = False
        self._tasks = Tasks()
        self.ended = asyncio.Event()

    def changed(self) -> None:
        self._revision += 1
        self._news.set()

    def leave(self) -> None:
        """This machine is wanted back: nothing is started any more, workers end in their own time, then the agent."""
        if not self._leaving:
            self._leaving = True
            self._tasks.start(self._leave(), "end of all workers")

    def application(self) -> web.Application:
        app = web.Application(client_max_size=protocol.MOST_ASKED)
        routes: dict[str, _Do] = {
            protocol.POLL: self._poll, protocol.START: self._start, protocol.STOP: self._stop,
            protocol.DESTROY: self._destroy, protocol.EMPTY: self._empty, protocol.MEMBERS: self._members,
            protocol.END: self._end, offers.OFFER: self._uploads.offer,
        }  # fmt: skip
        for path, do in routes.items():
            app.router.add_post(path, self._guarded(partial(self._message, do)))
        app.router.add_put(offers.UPLOAD, self._guarded(self._upload))
        ready = readiness.route(lambda: [] if self._leaving else self._starts.endpoints())
        app.router.add_get(protocol.READY, ready)
        app.router.add_get(protocol.ABOUT, self._guarded(partial(_about, self._lease, self._starts)))
        app.on_startup.append(self._begin)
        app.on_cleanup.append(self._close)
        return app

    def _guarded(self, answer: _Answer) -> Callable[[web.Request], Awaitable[web.Response]]:
        """For whoever has the key."""

        async def handle(request: web.Request) -> web.Response:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ").encode()
            if not hmac.compare_digest(given, self._key):
                return web.json_response({"error": "the agent's key is needed"}, status=401)
            try:
                return web.json_response(await answer(request))
            except ValueError as error:
                return web.json_response({"error": str(error)}, status=400)
            except (Busy, Outranked) as error:
                return web.json_response({"error": str(error)}, status=409)
            except OSError as error:
                return web.json_response({"error": error.strerror or str(error), "errno": error.errno}, status=507)

        return handle

    async def _message(self, do: _Do, request: web.Request) -> dict[str, Any]:
        message = bounded.parse_json(await request.read(), _VALUES)
        if not isinstance(message, dict):
            raise ValueError("a JSON object is needed")
        self._lease.check(_rank(message.get(offers.RANK)))
        return await do(message)

    async def _upload(self, request: web.Request) -> dict[str, Any]:
        self._lease.check(_rank(int(request.query.get(offers.RANK, ""))))
        return await self._uploads.receive(request)

    async def _begin(self, app: web.Application) -> None:
        self._starts.recover()
        self._tasks.start(self._watch_lease(), "lease")
        self._tasks.start(self._rotate(), "logs")

    async def _close(self, app: web.Application) -> None:
        await self._tasks.close()

    async def _poll(self, message: dict[str, Any]) -> dict[str, Any]:
        poll = read_poll(message)
        self._lease.renew(poll.rank, poll.lease, _now())
        if poll.since == self._revision:
            self._news.clear()
            try:
                async with asyncio.timeout(protocol.WAIT_S):
                    await self._news.wait()
            except TimeoutError:
                pass

        def report() -> dict[str, Any]:
            revision = self._revision  # before the look: what comes meanwhile is news
            logs = self._starts.written(poll.taken)
            starts = self._starts.describe()
            ports = () if self._leaving else self._starts.ports(protocol.PORTS)
            return NodeReport(self._starts.boot(), revision, ports, starts, logs, self._uploads.folder).to_json()

        return await asyncio.to_thread(report)

    async def _start(self, message: dict[str, Any]) -> dict[str, Any]:
        if self._leaving:
            raise Busy("this machine is wanted back")
        started = self._starts.start(read_order(message))
        return {"revision": self._revision, "started": started.to_json()}

    async def _stop(self, message: dict[str, Any]) -> dict[str, Any]:
        self._starts.stop(read_start(message))
        return {}

    async def _destroy(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"there": await asyncio.to_thread(self._starts.destroy, read_start(message))}

    async def _empty(self, message: dict[str, Any]) -> dict[str, Any]:
        return {"empty": await asyncio.to_thread(self._starts.empty, read_start(message))}

    async def _members(self, message: dict[str, Any]) -> dict[str, Any]:
        self._starts.watch_members(read_start(message))
        return {}

    async def _end(self, message: dict[str, Any]) -> dict[str, Any]:
        """All workers, and then itself, unless it stays whatever happens."""
        await self._destroy_all()
        if not self._stays:
            self.ended.set()
        return {"stays": self._stays}

    async def _leave(self) -> None:
        log.info("all workers are asked to end")
        self._starts.stop_all()
        while self._starts.endpoints():
            await asyncio.sleep(_LOOK_S)
        await self._destroy_all()
        self.changed()
        await asyncio.sleep(2 * protocol.WAIT_S)  # a poll may bring the news
        self.ended.set()

    async def _watch_lease(self) -> None:
        while True:
            while not self._lease.over(_now()):
                await asyncio.sleep(_LOOK_S)
            log.warning("nobody has asked for longer than the lease: all workers end")
            await self._destroy_all()
            if not self._stays:
                self.ended.set()
                return
            while self._lease.over(_now()):
                await asyncio.sleep(_LOOK_S)

    async def _destroy_all(self) -> None:
        while await asyncio.to_thread(self._starts.destroy_all):
            await asyncio.sleep(0.02)

    async def _rotate(self) -> None:
        while True:
            await asyncio.sleep(_ROTATE_S)
            await asyncio.to_thread(self._starts.rotate)


def make(
    key: str, lease: float, starts: Callable[[Callable[[], None]], Starts], cache: AdapterCache, stays: bool = False
) -> Agent:
    """``lease``: seconds until somebody has to have asked; ``stays`` as of `Agent`."""
    return Agent(key, NodeLease(lease, _now()), starts, cache, stays)


async def _about(lease: NodeLease, starts: Starts, request: web.Request) -> dict[str, Any]:
    silent, left = lease.age(_now())
    return {"workers": len(starts.endpoints()), "silent_s": round(silent, 1), "left_s": round(left, 1)}


def _rank(rank: Any) -> int:
    if not isinstance(rank, int):
        raise ValueError("no rank is given")
    return rank


def _now() -> float:
    return asyncio.get_running_loop().time()
