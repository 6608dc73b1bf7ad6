"""Several balancer processes kept as if they were one: what is made of their reports."""

from __future__ import annotations

from pathlib import Path

import pytest

from balancergroups import Heard, group_of
from cluster.balancers.group import BalancerGroup
from cluster.balancers.process import BalancerProcess
from cluster.models.record import ModelUse
from cluster.storage.store import Store
from config.link import Phase
from config.paths import StateDir

pytestmark = pytest.mark.processes


def _with_processes(folder: Path, store: Store, heard: Heard) -> BalancerGroup:
    """Three that are there, as far as the keeper can tell."""
    keeper = group_of(folder, store, heard)
    for order, slot in enumerate(keeper.slots):
        process = BalancerProcess(f"lb-{order}", slot.name, order, keeper, StateDir(folder / "state"), store)
        process.phase = Phase.SERVING
        slot.line.append(process)
        keeper.processes.append(process)
    return keeper


def _report(keeper: BalancerGroup, number: int, version: tuple[int, int], **in_flight: int) -> None:
    """What `BalancerProcess._talk` does with one."""
    process = keeper.processes[number]
    process.engaged, process.version, process.in_flight = True, version, in_flight
    keeper.on_message(process, {"type": "report", "used": {"poet": float(number)}})


def _die(keeper: BalancerGroup, number: int) -> None:
    process = keeper.processes[number]
    process.over, process.engaged, process.version = True, False, (0, 0)
    keeper.ended(process, -9)


def test_names_of_the_first_are_those_of_a_balancer_that_is_alone(tmp_path: Path, store: Store) -> None:
    keeper = group_of(tmp_path, store, Heard())
    assert [slot.name for slot in keeper.slots] == ["balancer", "balancer-1", "balancer-2"]


async def test_confirmed_is_what_the_slowest_has_and_in_flight_is_the_sum(tmp_path: Path, store: Store) -> None:
    heard = Heard()
    keeper = _with_processes(tmp_path, store, heard)
    assert not keeper.connected
    _report(keeper, 0, (1, 7), instance_0=2, instance_1=1)
    assert keeper.connected
    _report(keeper, 1, (1, 5), instance_0=3)
    _report(keeper, 1, (1, 7), instance_0=1)
    assert heard.reports == [
        ((1, 7), {"instance_0": 2, "instance_1": 1}, {"poet": 0.0}),
        ((1, 5), {"instance_0": 5, "instance_1": 1}, {"poet": 1.0}),
        ((1, 7), {"instance_0": 3, "instance_1": 1}, {"poet": 1.0}),
    ]


async def test_what_waits_for_a_first_byte_is_added_and_the_largest_of_all_counts(tmp_path: Path, store: Store) -> None:
    keeper = _with_processes(tmp_path, store, Heard())
    assert keeper.load("instance_0") == (0, 0, 0)
    _report(keeper, 0, (1, 7), instance_0=2, instance_1=1)
    _report(keeper, 1, (1, 7), instance_0=3)
    keeper.processes[0].waiting = {"instance_0": (1, 900), "instance_1": (1, 5)}
    keeper.processes[1].waiting = {"instance_0": (2, 100)}
    assert keeper.load("instance_0") == (5, 3, 900)
    assert keeper.load("instance_1") == (1, 1, 5)
    keeper.processes[0].engaged = False
    assert keeper.load("instance_0") == (3, 2, 100)


async def test_one_that_was_adopted_and_has_said_nothing_has_confirmed_nothing(tmp_path: Path, store: Store) -> None:
    heard = Heard()
    keeper = _with_processes(tmp_path, store, heard)
    keeper.processes[1].engaged = True
    _report(keeper, 0, (2, 1))
    assert heard.reports[-1][0] == (0, 0)


async def test_when_one_dies_only_its_own_requests_are_over(tmp_path: Path, store: Store) -> None:
    heard = Heard()
    keeper = _with_processes(tmp_path, store, heard)
    _report(keeper, 0, (1, 2), instance_0=2)
    _report(keeper, 1, (1, 1), instance_0=5)
    _die(keeper, 1)
    assert (heard.reports[-1], heard.losses) == (((1, 2), {"instance_0": 2}, {}), 0)
    _die(keeper, 0)
    assert (len(heard.reports), heard.losses) == (3, 1)


async def test_that_limits_are_not_shared_is_said_once_for_all(tmp_path: Path, store: Store) -> None:
    heard = Heard()
    keeper = _with_processes(tmp_path, store, heard)
    first, second, third = keeper.processes

    def tells(process: BalancerProcess, reason: str) -> None:
        limits = {"store": "redis://h:1", "shared": not reason, "reason": reason}
        keeper.on_message(process, {"type": "limits", "limits": limits})

    for process, reason in ((first, ""), (first, "away"), (second, "away"), (first, "away"), (second, "")):
        tells(process, reason)
    assert heard.told == [("redis://h:1", "away; keys' limits hold on this machine by itself")]
    _die(keeper, 0)
    tells(third, "")
    assert heard.told[-1] == ("redis://h:1", "answers: keys' limits are shared again")
    assert len([who for who, _ in heard.told if who == "redis://h:1"]) == 2


async def test_each_may_want_an_adapter(tmp_path: Path, store: Store) -> None:
    heard = Heard()
    keeper = _with_processes(tmp_path, store, heard)
    for process in keeper.processes:
        keeper.on_message(process, {"type": "want", "adapter": process.slot})
    keeper.on_message(keeper.processes[0], {"type": "hello", "pid": 1})
    assert heard.names == ["balancer", "balancer-1", "balancer-2"]


async def test_what_is_said_of_models_is_added_up(tmp_path: Path, store: Store) -> None:
    heard = Heard()
    keeper = _with_processes(tmp_path, store, heard)
    for number, models in enumerate([{"a": [1, 2, 3.5, 100.0]}, {"a": [2, 0, 0.0, 200.0], "b": [0, 0, 0.0, 0]}]):
        _report(keeper, number, (1, 7))
        keeper.processes[number].models = models
    assert keeper.models() == {"a": ModelUse(3, 2, 3.5, 200.0), "b": ModelUse(0, 0, 0.0, None)}
    keeper.on_message(keeper.processes[0], {"type": "want", "model": "a"})
    assert (heard.models, heard.names) == (["a"], [])
