"""What the balancers say, brought into the inbox."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cluster.adapters.inventory import Inventory
from cluster.adapters.rollout import Rollouts
from cluster.fleet.fleet import Fleet
from cluster.supervisor.exits import WorkerExits
from cluster.supervisor.publisher import Publisher


class BalancerReports:
    """The observer of a `cluster.balancers.group.BalancerGroup`. ``want(name)``: see `Rollouts.want`."""

    def __init__(
        self, post: Callable[[Callable[[], None]], None], fleet: Fleet, publisher: Publisher, exits: WorkerExits,
        inventory: Inventory, rollouts: Rollouts,
    ) -> None:
        self._post, self._fleet, self._publisher, self._exits = post, fleet, publisher, exits
        self._inventory, self._rollouts = inventory, rollouts

    def reported(
        self, version: tuple[int, int], in_flight: Mapping[str, int], used: Mapping[str, float]
    ) -> None:
        self._publisher.confirm(version)

        def event() -> None:
            self._inventory.report_used(used)
            self._fleet.in_flight(version, in_flight)

        self._post(event)

    def lost(self) -> None:
        self._post(self._fleet.balancer_lost)

    def wanted(self, adapter: str) -> None:
        self._post(lambda: self._rollouts.want(adapter))

    def changed(self) -> None:
        self._post(self._publisher.announce)

    def outcome(self, message: Mapping[str, Any]) -> None:
        self._post(lambda: self._exits.outcome(message))
