"""What every group of workers can rely on, however many there are: its workers, its count, its rolling restart."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.fleet.fleet import Fleet
from cluster.fleet.groups import DEFAULT, WorkerGroup, group_of, instance_name, is_worker, number_of
from cluster.fleet.instance import Refusal, restore
from cluster.fleet.reconciler import Action, Admit, Dismiss, Drain, Exit, Kill, Retire, Start, Stop, Sweep, reconcile
from cluster.fleet.restart import RestartPolicy
from cluster.fleet.states import DesiredState, WorkerState
from config.paths import StateDir, file_of, process_of
from fakedriver import FakeHandle
from fakes import Clock, rng
from worker.drivers.base import LOCAL
from worker.spec import Slot, WorkerEndpoint, WorkerSpec

S = WorkerState
GROUPS = (DEFAULT, "second", "third")
NAMES = (*GROUPS, "qwen2.5-7b", "a.instance_0")
COUNTS = st.integers(0, 4)


class Groups:
    """Workers that do at once what they are told."""

    def __init__(self, **counts: int) -> None:
        groups = {name: WorkerGroup(name, f"model-of-{name}", "sim", "elsewhere") for name in counts}
        self.fleet = Fleet(DesiredState(groups), RestartPolicy(), rng().random, lambda *_, **__: None)
        self.clock, self.starts, self.most_down = Clock(), 0, dict.fromkeys(counts, 0)
        for name, count in counts.items():
            self.fleet.intent.scale(count, name)
        self.settle()

    def settle(self) -> list[Action]:
        done: list[Action] = []
        for _ in range(300):
            actions = reconcile(self.fleet.intent.desired, self.fleet.observed(), self.clock())
            if not actions:
                return done
            done += actions
            for action in actions:
                self._perform(action)
            for name in self.most_down:
                down = self.fleet.intent.group(name).count - self.fleet.ready_count(name)
                self.most_down[name] = max(self.most_down[name], down)
            self.clock.advance(1.0)
        raise AssertionError(f"does not come to rest: {actions}")

    def _perform(self, action: Action) -> None:
        fleet, now = self.fleet, self.clock()
        if isinstance(action, Admit):
            fleet.admit(action.id, Slot(), now)
            return
        if isinstance(action, Dismiss):
            fleet.intent.dismiss_spare(action.id)
            return
        assert not isinstance(action, Exit)
        instance = fleet.instances[action.id]
        match action:
            case Start(fresh=fresh, keep=keep):
                self.starts += 1
                fleet.starting(instance, _spec(action.id, self.starts), now, fresh, keep)
                fleet.started(instance, FakeHandle(), 0.0)
                fleet.ready(instance, (), now)
            case Drain():
                fleet.drain(instance, now, (1, 1), balancer=False)
            case Stop(reason=reason) | Kill(reason=reason):
                fleet.stopping(instance, reason, now)
                fleet.exited(instance, 0, [], now, 0.0)
            case Sweep():
                fleet.tree_empty(instance, now)
            case Retire():
                del fleet.instances[action.id]

    def workers(self, group: str) -> list[str]:
        return [i.id for i in self.fleet.instances.values() if i.group == group and i.state is S.READY]


def _spec(name: str, incarnation: int) -> WorkerSpec:
    state = StateDir(Path("/nowhere"))
    return WorkerSpec(
        name, incarnation, (), {}, state.work, state.log(name), state.run(name), WorkerEndpoint(20_000), "key"
    )


@given(st.dictionaries(st.sampled_from(GROUPS), COUNTS, min_size=2), st.data())
def test_each_group_gets_its_workers_and_no_other_is_touched(counts: dict[str, int], data: st.DataObject) -> None:
    groups = Groups(**counts)
    assert {name: groups.workers(name) for name in counts} == {
        name: [instance_name(number, name) for number in range(count)] for name, count in counts.items()
    }
    name, count = data.draw(st.sampled_from(sorted(counts))), data.draw(COUNTS)
    groups.fleet.intent.scale(count, name)
    assert {group_of(action.id) for action in groups.settle() if not isinstance(action, Exit)} <= {name}
    assert {name: len(groups.workers(name)) for name in counts} == {**counts, name: count}


@pytest.mark.parametrize("spare", [True, False])
def test_a_rolling_restart_is_of_one_group_and_leaves_the_other(spare: bool) -> None:
    groups = Groups(default=3, second=2)
    before = {i.id: i.incarnation for i in groups.fleet.instances.values()}
    standing_in = groups.fleet.intent.free_name("second") if spare else None
    groups.fleet.intent.restart_rolling(standing_in, group="second")
    groups.settle()
    after = {i.id: i.incarnation for i in groups.fleet.instances.values()}
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == set(groups.workers("second"))


def test_rolling_restarts_of_two_groups_take_one_down_in_each() -> None:
    groups = Groups(default=3, second=3)
    groups.most_down = dict.fromkeys(groups.most_down, 0)
    for name in groups.most_down:
        groups.fleet.intent.restart_rolling(group=name)
    groups.settle()
    assert groups.most_down == {"default": 1, "second": 1}


def test_a_restart_and_a_drain_are_of_one_worker_whatever_the_number_is_elsewhere() -> None:
    groups = Groups(default=2, second=2)
    groups.fleet.intent.restart("second/instance_1")
    restarted = {action.id for action in groups.settle() if isinstance(action, Start)}
    assert restarted == {"second/instance_1"}
    with pytest.raises(KeyError):
        groups.fleet.intent.restart("second/instance_7")


def test_what_a_worker_refuses_is_missing_only_where_its_own_group_holds_it() -> None:
    groups = Groups(default=1, second=2)
    fleet = groups.fleet
    fleet.instances["instance_0"].adapters.loaded["poet"] = "/content"
    refusing = fleet.instances["second/instance_0"]
    refusing.adapters.refused["poet"] = Refusal("rank too high", "/content", 1, 0.0)
    assert fleet.missing_adapters(refusing) == []
    fleet.instances["second/instance_1"].adapters.loaded["poet"] = "/content"
    assert fleet.missing_adapters(refusing) == ["poet"]


def test_what_is_wanted_of_every_group_outlives_the_supervisor() -> None:
    groups = Groups(default=2, second=3)
    groups.fleet.intent.restart_rolling(groups.fleet.intent.free_name("second"), group="second")
    kept = groups.fleet.intent.durable()["desired"]
    later = Groups(default=0, second=0).fleet.intent
    later.restore(kept, None)
    assert later.desired.groups == groups.fleet.intent.desired.groups
    alone = Groups(default=0).fleet.intent
    alone.restore(kept, None)
    assert list(alone.desired.wanted) == ["instance_0", "instance_1"]


def test_a_state_of_before_there_were_groups_is_the_default_group() -> None:
    intent = Groups(default=0).fleet.intent
    intent.restore({"instances": {"instance_0": {"generation": 2, "rolling": True}}}, None)
    assert intent.group().count == 1 and intent.group().instances["instance_0"].generation == 2


def test_a_worker_is_recorded_with_the_driver_that_started_it_where_that_is_not_the_usual_one() -> None:
    instance = Groups(default=0, second=1).fleet.instances["second/instance_0"]
    assert instance.driver == "elsewhere" and restore(instance.id, instance.record(), 0.0).driver == "elsewhere"
    instance.driver = LOCAL
    assert "driver" not in instance.record() and restore(instance.id, instance.record(), 0.0).driver == LOCAL


@given(st.sampled_from(NAMES), st.integers(0, 2000), st.sampled_from(NAMES), st.integers(0, 2000))
def test_ids_do_not_collide_and_say_what_they_are_of(group: str, number: int, other: str, another: int) -> None:
    name = instance_name(number, group)
    assert (group_of(name), number_of(name)) == (group, number) and is_worker(name)
    assert "/" not in file_of(name) and process_of(file_of(name)) == name
    assert (name == instance_name(another, other)) == ((group, number) == (other, another))


@pytest.mark.parametrize("name", ["lb-1", "lb-reserve", "balancer-1", "standby"])
def test_a_balancer_is_no_worker(name: str) -> None:
    assert not is_worker(name)
