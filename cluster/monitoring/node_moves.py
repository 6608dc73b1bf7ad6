"""Moves a worker to a node that can stay, where the one it is on could be given back if it were free: a StatefulSet
takes the pod with the highest number away first, so one worker in a high pod keeps free ones below. Pure.

A move is a standby more for as long as it lasts. It comes to the lowest free node, and when it is ready it serves in
place of the worker, which is drained and ended as any that is not wanted any more: never fewer serve than are to.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cluster.events import Emit
from cluster.fleet.fleet import Fleet
from cluster.fleet.groups import WorkerGroup
from cluster.fleet.instance import Instance
from cluster.fleet.states import WorkerState

#: How long (s) a worker has been on such a node when it is moved: what is about to be scaled needs no move.
STEADY_S = 60.0


@dataclass(frozen=True, slots=True)
class NodeMove:
    """Of ``worker``; ``known``: the standbys that there were; given up at ``until`` (s, monotonic)."""

    worker: str
    known: frozenset[str]
    until: float


class NodeMoves:
    """``crowded(driver)``: as `worker.drivers.nodes.NodeGiver.crowded`; ``usual(group)``: what that is by its plan."""

    def __init__(
        self, fleet: Fleet, crowded: Callable[[str], str | None], usual: Callable[[str], WorkerGroup], emit: Emit
    ) -> None:
        self._fleet, self._crowded, self._usual, self._emit = fleet, crowded, usual, emit
        self._moves: dict[str, NodeMove] = {}
        #: By group, the worker on such a node, and since when.
        self._seen: dict[str, tuple[str, float]] = {}

    def look(self, now: float) -> None:
        """In the task that owns the state; ``now``: s, monotonic."""
        for name, group in dict(self._fleet.intent.desired.groups).items():
            if (move := self._moves.get(name)) is not None:
                self._go_on(group, move, now)
                continue
            worker = self._to_be_moved(group)
            if worker is None or self._seen.get(name, ("", 0.0))[0] != worker:
                self._seen.pop(name, None)
            if worker is not None and now - self._seen.setdefault(name, (worker, now))[1] >= STEADY_S:
                self._begin(group, worker, now)

    def _to_be_moved(self, group: WorkerGroup) -> str | None:
        """Unless anything else is on its way in the group."""
        intent = self._fleet.intent
        there = {name: one for name, one in self._fleet.instances.items() if one.group == group.name}
        at_rest = all(one.state is WorkerState.READY and one.id not in intent.cordons for one in there.values())
        if intent.desired.shutting_down or group.spares or not at_rest or set(there) != set(group.lasting):
            return None
        host = self._crowded(group.driver)
        found = (one for one in there.values() if one.endpoint is not None and one.endpoint.host == host)
        return next((one.id for one in found), None)

    def _begin(self, group: WorkerGroup, worker: str, now: float) -> None:
        del self._seen[group.name]
        startup = group.startup_timeout or self._fleet.intent.desired.startup_timeout
        self._moves[group.name] = NodeMove(worker, frozenset(group.lasting), now + startup)
        self._fleet.intent.keep_standbys(
            group.name, group.standby_count + 1, None if group.capacity is None else group.capacity + 1
        )
        self._emit(worker, "is moved, so that its node can be given back", kind="worker.moving")

    def _go_on(self, group: WorkerGroup, move: NodeMove, now: float) -> None:
        intent, usual, there = self._fleet.intent, self._usual(group.name), self._fleet.instances
        new = [there[name] for name in group.standbys if name not in move.known and name in there]
        ready = next((one for one in new if one.state is WorkerState.READY and not one.adapters.refused), None)
        is_off = intent.desired.shutting_down or now >= move.until or group.standby_count <= usual.standby_count
        if ready is None and not is_off and move.worker in group.lasting:
            return
        del self._moves[group.name]
        if ready is not None and not is_off and move.worker in group.lasting:
            intent.take_over(ready.id, move.worker, usual.standby_count, usual.capacity)
            self._tell(ready, move.worker)
        else:
            intent.keep_standbys(group.name, usual.standby_count, usual.capacity)

    def _tell(self, new: Instance, worker: str) -> None:
        self._emit(new.id, f"takes the place of {worker}", kind="worker.promoted", data={"place": worker})
