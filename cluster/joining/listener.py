"""Where machines join: a TLS port of the supervisor's that knows members, and takes new ones who bring a token."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from cluster.balancers import reports
from cluster.balancers.feed import Feed
from cluster.balancers.listener import listen
from cluster.events import Emit
from cluster.joining import certificate
from cluster.joining.calls import SupervisorApi
from cluster.joining.machine import JoinedMachine
from cluster.joining.members import Members
from cluster.joining.protocol import GREETING_S, HEARTBEAT_S, MACHINE_LINE, SILENCE_S
from cluster.joining.reach import is_here
from cluster.joining.roster import NotAdmitted
from cluster.storage.store import NotSaved
from config.aio import Tasks, patience
from config.identity import admin_token
from config.link import encode
from config.paths import StateDir
from worker.drivers.local import LocalDriver

log = logging.getLogger(__name__)

#: Seconds between two looks whether what is in flight has changed.
_LOOK_S = 0.1

#: Connections that have not said who they are.
_MOST_STRANGERS = 64


class MachineGroup(Protocol):
    """`cluster.balancers.group.BalancerGroup`."""

    feed: Feed

    def terms(self) -> Mapping[str, Any]: ...

    def hear(self, message: Mapping[str, Any]) -> None: ...

    def parted(self) -> None: ...


class JoinListener:
    """Of the machines among ``members``, which become part of ``group``; ``now()``: s, monotonic."""

    def __init__(
        self, group: MachineGroup, members: Members, state: StateDir, emit: Emit, now: Callable[[], float]
    ) -> None:
        self._group, self._members, self._state, self._emit, self._now = group, members, state, emit, now
        self.machines: dict[str, JoinedMachine] = {}
        self._strangers = 0
        self._server: asyncio.Server | None = None
        self._api: SupervisorApi | None = None
        self._tasks = Tasks()
        members.left = self._evict

    async def start(self, address: str) -> None:
        """At ``host:port``. Raises UsageError."""
        host, _, port = address.rpartition(":")
        await asyncio.to_thread(certificate.ensure, self._state.join_certificate)
        context, fingerprint = certificate.server_context(self._state.join_certificate)
        self._members.open = fingerprint, int(port)
        self._api = SupervisorApi(self._state.control)
        self._server = await asyncio.start_server(
            self._serve, sock=listen(host.strip("[]"), int(port)), ssl=context, limit=MACHINE_LINE,
            ssl_handshake_timeout=GREETING_S,
        )
        self._tasks.start(self._share_loads(), "tell balancers of each other's loads")

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for machine in self.machines.values():
            machine.drop()
        await self._tasks.close()
        if self._api is not None:
            await self._api.close()

    async def _evict(self, name: str) -> None:
        if (machine := self.machines.pop(name, None)) is not None:
            machine.drop()
            self._leave(machine)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            machine = await self._greet(reader, writer)
            if machine is not None:
                await self._follow(machine, reader)
        except (OSError, ssl.SSLError, TimeoutError):
            pass
        finally:
            writer.close()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> JoinedMachine | None:
        """Who it is; None for who is not let in."""
        if self._strangers >= _MOST_STRANGERS:
            return None
        self._strangers += 1
        try:
            async with asyncio.timeout(GREETING_S):
                hello = await _line(reader)
            if hello is None:
                return None
            try:
                name, secret = await self._let_in(hello)
            except (NotAdmitted, NotSaved) as error:
                peer = _address(writer)
                log.warning("%s may not join: %s", peer, error)
                final = isinstance(error, NotAdmitted)
                writer.write(encode({"type": "refused", "why": str(error), "final": final}))
                with contextlib.suppress(OSError):
                    await writer.drain()
                return None
        finally:
            self._strangers -= 1
        return self._welcome(name, secret, hello, writer)

    async def _let_in(self, hello: Mapping[str, Any]) -> tuple[str, str | None]:
        """Its name, and its secret where it has got one just now. Raises NotAdmitted, NotSaved."""
        told = {key: str(hello.get(key, "")) for key in ("type", "name", "secret", "token")}
        if told["type"] == "join":
            return await self._members.admit(told["token"], told["secret"], told["name"])
        self._members.check(told["name"], told["secret"])
        return told["name"], None

    def _welcome(
        self, name: str, secret: str | None, hello: Mapping[str, Any], writer: asyncio.StreamWriter
    ) -> JoinedMachine:
        if (before := self.machines.pop(name, None)) is not None:
            before.drop()  # it has come again before we noticed that it was gone
            self._leave(before)
        address = _address(writer)
        here = is_here(address, str(hello.get("boot")), LocalDriver().boot())
        machine = JoinedMachine(name, address, here, writer, self._now(), bool(hello.get("changes")))
        machine.tell({
            "type": "welcome", "name": name, **({} if secret is None else {"secret": secret}),
            **self._group.terms(), "admin_token": admin_token.read(self._state.admin_token),
        })  # fmt: skip
        for message in self._group.feed.latest():
            machine.tell(message)
        self.machines[name] = machine
        self._group.feed.joined.append(machine)
        self._emit(name, f"is connected, from {address}", kind="balancer.connected", data={"address": address})
        return machine

    async def _follow(self, machine: JoinedMachine, reader: asyncio.StreamReader) -> None:
        """Until it is gone, or silent for too long."""
        why = "its connection ended"
        try:
            while True:
                async with patience(SILENCE_S):
                    message = await _line(reader)
                if message is None:
                    break
                self._hear(machine, message)
        except TimeoutError:
            why = f"it said nothing for {SILENCE_S:g} s"
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = f"it said what is not understood: {error!r}"
        finally:
            machine.drop()
            if self.machines.get(machine.name) is machine:
                del self.machines[machine.name]
                self._leave(machine)
                self._emit(machine.name, f"is away: {why}; it serves on by itself", kind="balancer.away")

    def _leave(self, machine: JoinedMachine) -> None:
        self._group.feed.joined.remove(machine)
        self._group.parted()

    def _hear(self, machine: JoinedMachine, message: Mapping[str, Any]) -> None:
        if message["type"] == "report":
            machine.report(message)
        if message["type"] == "call":
            self._tasks.start(self._answer(machine, message), f"a call of {machine.name}")
        elif message["type"] == "attempts":
            self._pass_on(machine, message)
        elif message["type"] in ("report", "want", "outcome", "refused") and machine.engaged:
            self._group.hear(message)

    def _pass_on(self, machine: JoinedMachine, message: Mapping[str, Any]) -> None:
        """To all others. Raises KeyError, TypeError, ValueError for what is no such message."""
        told = {
            "type": "attempts", "who": int(message["who"]), "anew": bool(message["anew"]),
            "records": str(message["records"]),
        }  # fmt: skip
        for other in self.machines.values():
            if other is not machine:
                other.tell(told)
        encoded = encode(told)
        for process in self._group.feed.processes:
            process.send(encoded)

    async def _answer(self, machine: JoinedMachine, call: Mapping[str, Any]) -> None:
        assert self._api is not None
        try:
            machine.tell(await self._api.answer(call))
        except (KeyError, ValueError) as error:
            log.warning("%s asks for what is no call: %r", machine.name, error)

    async def _share_loads(self) -> None:
        """Tells each what all others have in flight, when that changes and now and then."""
        told: dict[JoinedMachine | None, tuple[dict[str, int], float]] = {}
        while True:
            await asyncio.sleep(_LOOK_S)
            feed = self._group.feed
            loads: dict[JoinedMachine | None, dict[str, int]] = {
                machine: dict(machine.in_flight) for machine in self.machines.values() if machine.engaged
            }
            loads[None] = dict(reports.in_flight(process for process in feed.processes if process.engaged))
            told = {machine: last for machine, last in told.items() if machine in loads}
            for machine in (*self.machines.values(), *((None,) if self.machines else ())):
                others = _sum(had for other, had in loads.items() if other is not machine)
                before, at = told.get(machine, ({}, 0.0))
                if others == before and self._now() - at < HEARTBEAT_S:
                    continue
                told[machine] = others, self._now()
                message = {"type": "loads", "loads": others}
                if machine is not None:
                    machine.tell(message)
                else:
                    for process in feed.processes:
                        process.send(encode(message))


def _sum(each: Any) -> dict[str, int]:
    total: dict[str, int] = {}
    for loads in each:
        for backend, count in loads.items():
            if count:
                total[backend] = total.get(backend, 0) + count
    return total


def _address(writer: asyncio.StreamWriter) -> str:
    peer = writer.get_extra_info("peername")
    return str(peer[0]) if peer else "?"


async def _line(reader: asyncio.StreamReader) -> dict[str, Any] | None:
    """The next message; None where there is none, or what is none."""
    try:
        line = await reader.readline()
        found = json.loads(line) if line.endswith(b"\n") else None
    except (ConnectionError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
