"""The machines that may join and have joined, kept in the state."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from cluster.errors import Refused
from cluster.events import Emit
from cluster.joining.roster import LONGEST_S, Roster
from config.identity.api_keys import duration

#: By which name they are kept.
KEPT = "joining"


class MemberStore(Protocol):
    """`cluster.storage.write_behind.WriteBehind`."""

    async def put(self, **values: Any) -> None: ...


class Members:
    """``wall()``: s since the epoch. ``open``: the fingerprint of the listener's certificate and its port, None
    while there is no listener. ``left(name)`` is called with one that is no member any more."""

    def __init__(self, store: MemberStore, emit: Emit, wall: Callable[[], float]) -> None:
        self._store, self._emit, self._wall = store, emit, wall
        self._now = Roster()
        self._lock = asyncio.Lock()
        self.open: tuple[str, int] | None = None
        self.left: Callable[[str], Awaitable[None]] = _nobody

    def load(self, kept: Mapping[str, Any] | None) -> None:
        """What an earlier supervisor knew."""
        self._now = Roster.from_json(kept or {})

    @property
    def machines(self) -> Mapping[str, float]:
        """When (s since the epoch) each joined, by name."""
        return {name: machine.joined for name, machine in self._now.machines.items()}

    @property
    def tokens(self) -> list[dict[str, Any]]:
        """Those that hold."""
        held = self._now.tokens.items()
        return [{"id": id, "expires": each.expires} for id, each in held if each.expires > self._wall()]

    async def invite(self, ttl: str) -> dict[str, Any]:
        """A token, shown once. Raises Refused, NotSaved."""
        if self.open is None:
            raise Refused(409, "no machine can join: the cluster was started without --join-listen")
        fingerprint, port = self.open
        try:
            seconds = duration(ttl)
            if not 0 < seconds <= LONGEST_S:
                raise ValueError(f"a token holds at most {LONGEST_S / 86400:.0f}d")
            async with self._lock:
                new, token = self._now.invited(fingerprint, seconds, self._wall())
                await self._save(new)
        except ValueError as error:
            raise Refused(400, str(error), "ttl") from None
        self._emit("cluster", f"token {token.id} lets machines join for {ttl}", kind="balancer.invited")
        return {"id": token.id, "token": token.text(), "port": port, "expires": new.tokens[token.id].expires}

    async def admit(self, token: str, secret: str, name: str) -> tuple[str, str]:
        """The name and the secret of a machine that joins. Raises NotAdmitted, NotSaved."""
        async with self._lock:
            new, given, own = self._now.admitted(token, secret, name, self._wall())
            await self._save(new)
        self._emit(given, f"has joined, by token {token}", kind="balancer.joined", data={"token": token})
        return given, own

    def check(self, name: str, secret: str) -> None:
        """Raises NotAdmitted for who is no member."""
        self._now.check(name, secret)

    async def evict(self, name: str) -> dict[str, Any]:
        """It is told nothing more once this returns. Raises Refused (404), NotSaved."""
        try:
            async with self._lock:
                await self._save(self._now.without_machine(name))
        except KeyError:
            raise Refused(404, f"no machine {name!r} has joined", "name") from None
        await self.left(name)
        self._emit(name, "was evicted", kind="balancer.evicted")
        return {"evicted": name}

    async def revoke(self, token: str) -> dict[str, Any]:
        """It lets nobody in any more; who is in stays. Raises Refused (404), NotSaved."""
        try:
            async with self._lock:
                await self._save(self._now.without_token(token))
        except KeyError:
            raise Refused(404, f"there is no token {token!r}", "token") from None
        self._emit("cluster", f"token {token} lets nobody join any more", kind="balancer.revoked")
        return {"revoked": token}

    async def _save(self, new: Roster) -> None:
        await self._store.put(**{KEPT: new.to_json()})
        self._now = new


async def _nobody(name: str) -> None:
    """There is no listener."""
