"""Tells the balancers what changed, if anything did, remembers what they have confirmed, and brings what they say into
the inbox."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from cluster.adapters.inventory import Inventory
from cluster.adapters.residency import Residency
from cluster.adapters.rollout import Rollouts
from cluster.fleet.fleet import Fleet
from cluster.supervisor.exits import WorkerExits
from config.disk.strategy_file import StrategyWriter
from config.topology import BackendSet, BackendSpec

#: Seconds that the balancers may take to confirm a backend set.
_CONFIRM_S = 1.0

#: Seconds between two snapshots that nobody waits for, for each backend beyond so many: to make one and to read it
#: takes some 50 microseconds of a processor for each.
_PAUSE_EACH_S, _UNPAUSED = 0.0002, 100

Version = tuple[int, int]


class Audience(Protocol):
    """`cluster.balancers.feed.Feed`."""

    @property
    def connected(self) -> bool: ...

    def publish(
        self, backends: dict[str, Any] | None = None, snapshot: dict[str, Any] | None = None,
        keys: dict[str, Any] | None = None,
    ) -> None: ...


class Publisher:
    """In the supervisor's run ``epoch``. ``backends(version)`` and ``snapshot()`` say what there is; ``audience`` are
    the balancers; ``now``: s, monotonic. ``sequence`` counts the snapshots. Of many backends that change one after the
    other the balancers get each set at once, but a snapshot only now and then."""

    def __init__(
        self, epoch: int, backends: Callable[[Version], BackendSet], snapshot: Callable[[], dict[str, Any]],
        audience: Audience, now: Callable[[], float],
    ) -> None:
        self.epoch, self.sequence = epoch, 0
        self.switch: StrategyWriter | None = None
        self._switched: str | None = None
        self._backends, self._snapshot, self._audience, self._now = backends, snapshot, audience, now
        self._revision = 0
        self._published: dict[str, Any] = {}
        self._rows: dict[str, tuple[BackendSpec, dict[str, Any]]] = {}
        self._confirmed = (0, 0)
        self._outdated, self._outdated_at, self._announced_at = False, -math.inf, -math.inf

    @property
    def connected(self) -> bool:
        """Whether there are balancers in which requests may be in flight."""
        return self._audience.connected

    @property
    def version(self) -> Version:
        """Of the newest backend set."""
        return self.epoch, self._revision

    @property
    def next_version(self) -> Version:
        """Of the backend set that follows from what is changed now."""
        return self.epoch, self._revision + 1

    def publish(self) -> None:
        shape = self._backends(self.next_version).to_json(self._row_by(self._rows))
        revision, is_new = shape.pop("revision"), False
        if shape != self._published:
            self._published, self._revision, is_new = shape, revision, True
            strategy = shape["strategy"]
            if self.switch is not None and strategy != self._switched:
                self.switch.write(self.version, strategy)
                self._switched = strategy
            self._audience.publish({**shape, "revision": revision})
            if not self._outdated:
                self._outdated, self._outdated_at = True, self._now()
        pause = _PAUSE_EACH_S * max(0, len(shape["backends"]) - _UNPAUSED)
        # Of many it takes longer to make a snapshot than to go by the set, which is let on its way first.
        since = self._outdated_at if is_new and pause else self._announced_at
        if self._outdated and self._now() - since >= pause:
            self.announce()

    def _row_by(
        self, before: Mapping[str, tuple[BackendSpec, dict[str, Any]]]
    ) -> Callable[[BackendSpec], dict[str, Any]]:
        """Makes what is told of a backend: the very object that was told ``before`` where the backend is that too,
        which is quickly compared."""
        self._rows = rows = {}

        def row(spec: BackendSpec) -> dict[str, Any]:
            known = before.get(spec.id)
            rows[spec.id] = known = known if known and known[0] is spec else (spec, spec.to_json())
            return known[1]

        return row

    def announce(self) -> None:
        """Sends the balancers a new snapshot."""
        self._outdated, self._announced_at = False, self._now()
        self.sequence += 1
        self._audience.publish(snapshot=self._snapshot())

    def publish_keys(self, message: dict[str, Any]) -> None:
        """Sends the balancers the keys. The next backend set follows even if it says nothing new: whoever confirms it
        goes by the keys too."""
        self._audience.publish(keys=message)
        self._published = {}

    def confirm(self, version: Version) -> None:
        """All balancers work by ``version``."""
        self._confirmed = max(self._confirmed, version)

    async def confirmation(self, version: Version) -> None:
        """Returns when the balancers work by ``version``, if there are any; after a second at the latest."""
        deadline = self._now() + _CONFIRM_S
        while self._audience.connected and self._confirmed < version and self._now() < deadline:
            await asyncio.sleep(0.002)


class BalancerReports:
    """The observer of a `cluster.balancers.group.BalancerGroup`. ``refused``: see there; ``ask`` for a model."""

    def __init__(
        self, post: Callable[[Callable[[], None]], None], fleet: Fleet, publisher: Publisher, exits: WorkerExits,
        inventory: Inventory, residency: Residency, rollouts: Rollouts, ask: Callable[[str], None],
        refused: Callable[[Sequence[Mapping[str, Any]]], None],
    ) -> None:
        self.refused = refused
        self._post, self._fleet, self._publisher, self._exits = post, fleet, publisher, exits
        self._inventory, self._residency, self._rollouts, self._ask = inventory, residency, rollouts, ask

    def reported(
        self, version: tuple[int, int], in_flight: Mapping[str, int], used: Mapping[str, float],
        work: Mapping[str, float],
    ) -> None:
        self._publisher.confirm(version)

        def event() -> None:
            self._inventory.report_used(used)
            self._residency.report_work(work)
            self._fleet.in_flight(version, in_flight)

        self._post(event)

    def lost(self) -> None:
        self._post(self._fleet.balancer_lost)

    def wanted(self, adapter: str) -> None:
        self._post(lambda: self._rollouts.want(adapter))

    def wanted_model(self, model: str) -> None:
        self._post(lambda: self._ask(model))

    def changed(self) -> None:
        self._post(self._publisher.announce)

    def outcome(self, message: Mapping[str, Any]) -> None:
        self._post(lambda: self._exits.outcome(message))
