"""The nodes on which workers run: says when one is lost or back, and tells their driver which places are still held."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cluster.events import Emit
from cluster.fleet.instance import Instance
from worker.drivers.base import Drivers
from worker.drivers.nodes import HeldPlace, NodeDriver, NodeGiver, NodeStatus, WorkerNeed

#: Of a sentence: what a worker waits for in vain for so long (s) is worth an event.
_IN_VAIN_S = 10.0


class NodeWatch:
    """``instances``: all that are there; ``need(group)``: what each of these takes of its node."""

    def __init__(
        self, drivers: Drivers, instances: Mapping[str, Instance], need: Callable[[str], WorkerNeed], emit: Emit
    ) -> None:
        self._drivers = {name: one for name, one in drivers.items() if isinstance(one, NodeDriver)}
        self._instances, self._need, self._emit = instances, need, emit
        self._states: dict[str, str] = {}
        self._in_vain: dict[str, str] = {}

    def look(self, now: float) -> None:
        """``now``: s, monotonic. Does not block."""
        for name, driver in self._drivers.items():
            own = [instance for instance in self._instances.values() if instance.driver == name]
            driver.keep({one.id: HeldPlace(self._need(one.group), _host(one)) for one in own})
            self._tell_of_places(own, now)
        self._tell_of_nodes(self.nodes())

    def nodes(self) -> list[NodeStatus]:
        return [node for driver in self._drivers.values() for node in driver.nodes()]

    def crowded(self, driver: str) -> str | None:
        """See `NodeGiver.crowded`."""
        found = self._drivers.get(driver)
        return found.crowded() if isinstance(found, NodeGiver) else None

    def describe(self) -> list[dict[str, Any]]:
        """With the workers of each."""
        there: dict[str, list[str]] = {}
        for one in self._instances.values():
            if one.driver in self._drivers and one.endpoint is not None and one.handle is not None:
                there.setdefault(one.endpoint.host, []).append(one.id)
        return [{**node.to_json(), "instances": sorted(there.get(node.host, ()))} for node in self.nodes()]

    def _tell_of_nodes(self, nodes: Iterable[NodeStatus]) -> None:
        for node in nodes:
            before, self._states[node.name] = self._states.get(node.name), node.state
            if node.state == "lost" and before != "lost":
                text = f"is lost: nothing was heard of it for {node.heard_s:.0f} s"
                self._emit(node.name, text, kind="node.lost", data={"heard_s": node.heard_s})
            elif node.state == "up" and before != "up":
                text = "is back" if before == "lost" else "is there, and may be given workers"
                self._emit(node.name, text, kind="node.up", data={"agent": node.agent})

    def _tell_of_places(self, instances: Iterable[Instance], now: float) -> None:
        waiting = {one.id: one for one in instances if one.phase.startswith("waits for a place") and not one.handle}
        for name in set(self._in_vain) - set(waiting):
            del self._in_vain[name]
        for name, one in waiting.items():
            if name not in self._in_vain and now - one.since > _IN_VAIN_S:
                self._in_vain[name] = one.phase
                self._emit(name, one.phase, kind="worker.unplaced", data={"reason": one.phase})


def _host(instance: Instance) -> str | None:
    return None if instance.handle is None or instance.endpoint is None else instance.endpoint.host
