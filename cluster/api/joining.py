"""Machines with balancers of their own: what a client may ask of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field, StrictStr

from cluster.api.schemas import Body
from cluster.joining.machine import JoinedMachine
from cluster.joining.members import Members


class InviteBalancers(Body):
    ttl: StrictStr = Field("1h", min_length=2, max_length=16)


class JoinCommands:
    """``connected()``: those among ``members`` that are there; ``wall()``: s since the epoch."""

    def __init__(
        self, members: Members, connected: Callable[[], dict[str, JoinedMachine]], wall: Callable[[], float]
    ) -> None:
        self._members, self._connected, self._wall = members, connected, wall

    def every(self) -> dict[str, Any]:
        """Machines and tokens."""
        connected, now = self._connected(), self._wall()
        machines = []
        for name, joined in self._members.machines.items():
            there = connected.get(name)
            machines.append({
                "name": name, "connected": there is not None, "address": there.address if there else None,
                "in_flight": sum(there.in_flight.values()) if there else None, "age_s": round(now - joined, 1),
            })  # fmt: skip
        return {"balancers": machines, "tokens": self._members.tokens}

    async def invite(self, body: InviteBalancers) -> dict[str, Any]:
        """See `Members.invite`."""
        return await self._members.invite(body.ttl)

    async def revoke(self, token: str) -> dict[str, Any]:
        """See `Members.revoke`."""
        return await self._members.revoke(token)

    async def evict(self, name: str) -> dict[str, Any]:
        """See `Members.evict`."""
        return await self._members.evict(name)
