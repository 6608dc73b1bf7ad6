"""Where there is room on Ray's nodes."""

from __future__ import annotations

from typing import Any

import pytest

from worker.drivers.nodes import WorkerNeed
from worker.drivers.ray import room


def _node(host: str, free: float, zone: str = "a", **more: float) -> dict[str, Any]:
    return {"host": host, "total": {"GPU": 2.0, **more}, "free": {"GPU": free, **more}, "labels": {"zone": zone}}


NODES = [_node("10.0.0.1", 1.0), _node("10.0.0.2", 2.0, zone="b", fast=0.5)]


@pytest.mark.parametrize(
    ("need", "host"),
    [
        (WorkerNeed(1), "10.0.0.1"),
        (WorkerNeed(2), "10.0.0.2"),
        (WorkerNeed(0.5), "10.0.0.1"),
        (WorkerNeed(1, {"fast": 0.5}), "10.0.0.2"),
        (WorkerNeed(0, {}, {"zone": "b"}), "10.0.0.2"),
    ],
)
def test_the_first_that_has_it(need: WorkerNeed, host: str) -> None:
    assert room.choose(need, ["10.0.0.1", "10.0.0.2"], NODES) == host


def test_the_order_is_that_of_who_asks_and_others_are_not_taken() -> None:
    assert room.choose(WorkerNeed(1), ["10.0.0.2", "10.0.0.1"], NODES) == "10.0.0.2"
    with pytest.raises(OSError, match="no node has 1 GPU free; there is: no node"):
        room.choose(WorkerNeed(1), ["10.0.0.3"], NODES)


def test_what_is_lacking_is_said() -> None:
    with pytest.raises(OSError, match=r"2 GPUs, 1 fast free; there is: 10.0.0.1: 1 of 2 GPU, 0 of 0 fast; "):
        room.choose(WorkerNeed(2, {"fast": 1}), ["10.0.0.1", "10.0.0.2"], NODES)
    with pytest.raises(OSError, match=r"zone=c free; there is: 10.0.0.1: zone=a$"):
        room.choose(WorkerNeed(labels={"zone": "c"}), ["10.0.0.1"], NODES)


def test_what_is_promised_is_not_free() -> None:
    promised = [room.bundle(WorkerNeed(1), "10.0.0.2")]
    assert [node["free"]["GPU"] for node in room.less(NODES, promised)] == [1.0, 1.0]


def test_what_ray_has_options_for_is_asked_for_by_these() -> None:
    need = WorkerNeed(0.33333, {"CPU": 4, "memory": 1e9, "fast": 0.5})
    asked = {"num_gpus": 0.3333, "num_cpus": 4, "memory": 1e9, "resources": {"fast": 0.5}}
    assert room.options(room.amounts(need)) == asked
    assert room.options(room.bundle(WorkerNeed(), "h")) == {"num_cpus": 0, "resources": {"node:h": 0.001}}


def test_a_bundle_is_pinned() -> None:
    made = room.bundle(WorkerNeed(2, {"fast": 0.25}), "10.0.0.1")
    assert made == {"GPU": 2.0, "fast": 0.25, "node:10.0.0.1": 0.001} and room.pinned_to(made) == "10.0.0.1"
