"""What one round costs grows with the number of workers, not with its square. Calls are counted, no time is taken."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.fleet.instance import Instance, Refusal
from cluster.fleet.reconciler import reconcile
from cluster.fleet.states import WorkerState
from cluster.monitoring.probes import CROWD, stretch
from clusterfakes import Unrun
from fakedriver import FakeHandle
from worker.spec import Slot, WorkerEndpoint, WorkerSpec


def calls_of(act: Callable[[], Any]) -> int:
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(None)
    return count


def cluster_of(folder: Path, count: int) -> Unrun:
    parts = Unrun(folder, max_instances=count)
    parts.fleet.intent.scale(count)
    for number, name in enumerate(parts.fleet.intent.group().instances):
        where = WorkerEndpoint(20_000 + number)
        spec = WorkerSpec(name, 1, ("worker",), {}, folder, folder / "log", folder / name, where, "key")
        worker = Instance(
            name, Slot(), state=WorkerState.READY, handle=FakeHandle(number, where), spec=spec, tree_empty=False
        )
        worker.models = ({"id": "demo", "object": "model"},)
        worker.adapters.loaded["poet"] = "/adapters/poet"
        worker.adapters.refused["odd"] = Refusal("", "/adapters/odd", 1, 9.0)
        parts.fleet.instances[name] = worker
    return parts


def one_round(parts: Unrun) -> None:
    fleet = parts.fleet
    assert reconcile(fleet.intent.desired, fleet.observed(), 1.0) == []
    json.dumps(parts.backends.as_of((1, 1)).to_json())
    for worker in fleet.instances.values():
        parts.write_behind.process(worker.id, worker.record())


def test_a_round_of_four_times_as_many_workers_costs_four_times_as_much(tmp_path: Path) -> None:
    few, many = cluster_of(tmp_path / "few", 50), cluster_of(tmp_path / "many", 200)
    one_round(few), one_round(many)  # what is made once
    assert calls_of(lambda: one_round(many)) < 4.5 * calls_of(lambda: one_round(few))


@pytest.mark.parametrize(("workers", "longer"), [(0, 1.0), (1, 1.0), (CROWD, 1.0), (4 * CROWD, 4.0)])
def test_many_workers_are_asked_as_often_in_all_as_some(workers: int, longer: float) -> None:
    assert stretch(workers) == longer
