"""What workers hold of Ray's nodes: for each a placement group of one bundle, and in it an actor that says which GPUs
these are. Both are detached: they outlive who asked, and Ray makes an actor again that ends.

A worker is no child of its actor, so neither's end is the other's. A group is pinned to its node (by the resource
``node:ADDRESS`` that each has): where a raylet starts anew, Ray puts the group back to the worker that still runs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from worker.drivers.nodes import WorkerNeed
from worker.drivers.ray import room
from worker.drivers.ray.room_requests import RoomRequests

#: How long (s) Ray may take to give what it said was free, and then to start the actor; how long that may take to
#: answer before who asked is told to ask again.
_PLACE_S, _START_S, _ANSWER_S = 10.0, 40.0, 0.5


class GpuHolder:
    """The actor: its existence holds them."""

    def gpus(self) -> list[str]:
        import ray

        return list(ray.get_runtime_context().get_accelerator_ids().get("GPU", ()))


class Holders:
    """Of the workers of the cluster ``name``, of which no other one's are touched. ``ray``: connected."""

    def __init__(self, ray: Any, name: str) -> None:
        self._ray, self._prefix = ray, f"clusterctl-{name}/"
        self._since: dict[str, float] = {}
        self._requests = RoomRequests(ray, name)

    def place(self, worker: str, need: WorkerNeed, hosts: Sequence[str]) -> dict[str, Any]:
        """``{"host": ..., "held": {worker: GPUs of all that is held there}}``, or ``{"waits": why}``."""
        groups = self._groups()
        if worker in groups and groups[worker]["host"] not in hosts:
            self._remove(groups.pop(worker))
        if worker in groups and groups[worker]["need"] != room.bundle(need, groups[worker]["host"]):
            self._remove(groups.pop(worker))
        if worker not in groups:
            try:
                promised = [group["need"] for group in groups.values() if not group["ready"]]
                found = room.choose(need, hosts, room.less(self.nodes(), promised))
            except OSError as error:
                self._requests.ask(worker, need)
                return {"waits": str(error)}
            self._requests.withdraw(worker)  # or it might take what it asked for
            self._make(worker, need, found)
            return {"waits": f"Ray gives it room on {found}"}
        return self._held(worker, groups)

    def _held(self, worker: str, groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        host = groups[worker]["host"]
        there = {name: group for name, group in groups.items() if group["host"] == host}
        answers = {name: self._actor(group).gpus.remote() for name, group in there.items() if group["ready"]}
        wait = partial(self._ray.wait, num_returns=len(answers), timeout=_ANSWER_S)
        done = wait(list(answers.values()))[0] if answers else []
        said = {name: self._ids(answer) for name, answer in answers.items() if answer in done}
        held = {name: ids for name, ids in said.items() if ids is not None}
        if worker in held:
            self._since.pop(worker, None)
            return {"host": host, "held": held}
        patience = _START_S if groups[worker]["ready"] else _PLACE_S
        if time.monotonic() - self._since.setdefault(worker, time.monotonic()) > patience:
            self._remove(groups[worker])
            return {"waits": f"Ray gave it no room on {host}, and is asked anew"}
        return {"waits": f"Ray gives it room on {host}"}

    def keep(self, places: Mapping[str, Mapping[str, Any]]) -> None:
        """Removes those of others, and makes those that are missing of what has its host."""
        self._requests.keep(places)
        groups = self._groups()
        for name, group in groups.items():
            if name not in places:
                self._remove(group)
        alive = {node["host"] for node in self.nodes()}
        for name, place in places.items():
            if name not in groups and place["host"] in alive:
                self._make(name, WorkerNeed(**place["need"]), place["host"])

    def end(self) -> None:
        self._requests.keep(())
        for group in self._groups().values():
            self._remove(group)

    def nodes(self) -> list[dict[str, Any]]:
        """Those that live: ``host``, ``total``, ``free`` (amounts by resource) and ``labels``."""
        from ray._private.state import available_resources_per_node  # what `ray.available_resources` adds up

        free = available_resources_per_node()
        return [
            {"host": node["NodeManagerAddress"], "total": node["Resources"], "free": free.get(node["NodeID"], {}),
             "labels": node.get("Labels", {})}
            for node in self._ray.nodes() if node["Alive"]
        ]  # fmt: skip

    def _groups(self) -> dict[str, dict[str, Any]]:
        """By worker: ``name`` and ``id``; ``need``: its bundle; ``host``: to which it is pinned; ``ready``: it is
        placed."""
        found = {}
        for one in self._ray.util.placement_group_table().values():
            worker = one["name"].removeprefix(self._prefix)
            if worker == one["name"] or one["state"] == "REMOVED":
                continue
            need = {name: round(amount, 4) for name, amount in next(iter(one["bundles"].values()), {}).items()}
            found[worker] = {
                "name": one["name"], "id": one["placement_group_id"], "need": need, "host": room.pinned_to(need),
                "ready": one["state"] == "CREATED",
            }  # fmt: skip
        return found

    def _make(self, worker: str, need: WorkerNeed, host: str) -> None:
        group = self._ray.util.placement_group(
            [room.bundle(need, host)], strategy="STRICT_PACK", name=self._prefix + worker, lifetime="detached",
            **({"bundle_label_selector": [dict(need.labels)]} if need.labels else {}),
        )  # fmt: skip
        self._since[worker] = time.monotonic()
        self._actor({"name": self._prefix + worker, "id": group.id.hex(), "need": room.bundle(need, host)}, group)

    def _actor(self, group: Mapping[str, Any], placed: Any = None) -> Any:
        """That of the group, made where there is none. It asks for the same: a group alone leaves its actors without
        any GPU (ray#50180)."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        placed = placed or self._ray.util.get_placement_group(group["name"])
        return self._ray.remote(GpuHolder).options(
            name=f"holder-{group['id']}", get_if_exists=True, lifetime="detached", max_restarts=-1, max_task_retries=0,
            **room.options(group["need"]),
            scheduling_strategy=PlacementGroupSchedulingStrategy(placed, placement_group_bundle_index=0),
        ).remote()  # fmt: skip

    def _remove(self, group: Mapping[str, Any]) -> None:
        """Its actor ends with it."""
        self._since.pop(group["name"].removeprefix(self._prefix), None)
        self._ray.util.remove_placement_group(self._ray.util.get_placement_group(group["name"]))

    def _ids(self, answer: Any) -> list[int] | None:
        """None of one that has just ended. Raises ValueError for parts of GPUs."""
        try:
            ids = self._ray.get(answer)
        except Exception:  # Ray raises whatever it likes
            return None
        if not all(one.isdigit() for one in ids):
            raise ValueError(f"Ray names GPUs by {', '.join(ids)}: raylets have to see them by number, whole ones")
        return [int(one) for one in ids]
