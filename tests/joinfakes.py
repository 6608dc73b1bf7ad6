"""Where machines join, for tests: the real listener over a group that only listens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.balancers.feed import Feed
from cluster.joining.listener import JoinListener
from cluster.joining.members import Members
from cluster.joining.roster import JoinToken
from cluster.joining.uplink import JoinAddress, Uplink
from config.aio import Tasks
from config.paths import StateDir
from config.topology import BalancerConfig
from harness import free_port


class Group:
    """Listens."""

    def __init__(self) -> None:
        self.config = BalancerConfig(-1, "/nowhere", "127.0.0.1", 1, 5.0)
        self.feed = Feed()
        self.heard: list[Mapping[str, Any]] = []
        self.partings = 0
        self.drain_timeout, self.standby = 30.0, False

    def terms(self) -> dict[str, Any]:
        return {"config": self.config.to_json(), "drain_timeout": self.drain_timeout, "standby": self.standby}

    def hear(self, message: Mapping[str, Any]) -> None:
        self.heard.append(message)

    def parted(self) -> None:
        self.partings += 1


class Process:
    """A balancer here."""

    engaged = True

    def __init__(self) -> None:
        self.in_flight: dict[str, int] = {}
        self.heard: list[Mapping[str, Any]] = []

    def send(self, encoded: bytes, kind: str = "") -> None:
        self.heard.append(json.loads(encoded))


class Kept:
    async def put(self, **values: Any) -> None:
        self.values = values


class Supervisor:
    """A listener, and machines that come."""

    def __init__(self, folder: Path) -> None:
        self.port, self.group, self.wall, self.tasks = free_port(), Group(), 1000.0, Tasks()
        state = StateDir(folder)
        state.create()

        def emit(subject: str, text: str, kind: str = "note", data: Mapping[str, Any] | None = None) -> None:
            self.events.append(kind)

        self.events: list[str] = []
        self.members = Members(Kept(), emit, lambda: self.wall)
        self.listener = JoinListener(self.group, self.members, state, emit, asyncio.get_running_loop().time)

    async def token(self) -> JoinToken:
        return JoinToken.parse((await self.members.invite("1h"))["token"])

    def machine(self, by: JoinToken, **hello: Any) -> tuple[Uplink, list[Mapping[str, Any]], asyncio.Task[Any]]:
        heard: list[Mapping[str, Any]] = []
        first = {"type": "join", "token": by.id, "secret": by.secret, "name": "lb", **hello}
        link = Uplink(JoinAddress("127.0.0.1", self.port, by.fingerprint), lambda: first, heard.append, lambda: None)
        return link, heard, asyncio.ensure_future(link.run())
