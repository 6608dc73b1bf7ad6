"""What is said of nodes, and what their driver is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cluster.fleet.instance import Instance
from cluster.monitoring.nodes import NodeWatch
from fakedriver import FakeDriver, FakeHandle
from worker.drivers.nodes import HeldPlace, NodeStatus, WorkerNeed, WorkerPlace
from worker.spec import Slot, WorkerEndpoint


class FakeNodes(FakeDriver):
    def __init__(self) -> None:
        super().__init__()
        self.seen = [NodeStatus("a", "10.0.0.1", "up", 0.1, 120, "http://10.0.0.1:7", 2, 1)]
        self.kept: Mapping[str, HeldPlace] = {}

    def place(self, name: str, need: WorkerNeed, taken: Mapping[str, WorkerPlace]) -> WorkerPlace:
        raise OSError("no room")

    def keep(self, places: Mapping[str, HeldPlace]) -> None:
        self.kept = places

    def nodes(self) -> list[NodeStatus]:
        return self.seen


def test_nodes_come_and_go_and_places_are_held() -> None:
    driver, said = FakeNodes(), list[tuple[str, str]]()

    def emit(subject: str, text: str, kind: str = "", data: Any = None) -> None:
        said.append((subject, kind))

    there = {name: Instance(name, Slot(), driver="ray") for name in ("instance_0", "instance_1")}
    there["instance_0"].handle = FakeHandle(endpoint=WorkerEndpoint(20_000, "10.0.0.1"))
    there["instance_1"].phase = "waits for a place: no node has 2 GPUs free"
    watch = NodeWatch({"local": FakeDriver(), "ray": driver}, there, lambda group: WorkerNeed(1), emit)
    watch.look(1.0)
    assert said == [("a", "node.up")]
    assert {name: place.host for name, place in driver.kept.items()} == {"instance_0": "10.0.0.1", "instance_1": None}
    assert watch.describe()[0]["instances"] == ["instance_0"]
    watch.look(20.0)
    watch.look(21.0)
    assert said[1:] == [("instance_1", "worker.unplaced")], "once"
    driver.seen = [NodeStatus("a", "10.0.0.1", "lost", 5.0, 120, "http://10.0.0.1:7")]
    watch.look(22.0)
    watch.look(23.0)
    assert said[2:] == [("a", "node.lost")]
