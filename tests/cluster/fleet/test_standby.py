"""Standbys: how many there are, who takes whose place, and that none is sent anything before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.fleet import rolling
from cluster.fleet.fleet import Fleet
from cluster.fleet.groups import DEFAULT, InstanceDesired, WorkerGroup
from cluster.fleet.reconciler import Action, Admit, Dismiss, Drain, Kill, Promote, Retire, Start, Stop, reconcile
from cluster.fleet.restart import RestartPolicy
from cluster.fleet.standby import promotions
from cluster.fleet.states import RUNNING, DesiredState, InstanceObserved, WorkerState
from config.topology import TAKES_NEW
from fakedriver import FakeHandle
from fakes import Clock, rng
from worker.spec import Slot, WorkerEndpoint, WorkerSpec

S = WorkerState
A, B, C = "instance_0", "instance_1", "instance_2"


def _group(count: int = 2, spares: int = 1, capacity: int | None = None) -> Fleet:
    group = WorkerGroup(standby_count=spares, capacity=capacity)
    desired = DesiredState({DEFAULT: group})
    fleet = Fleet(desired, RestartPolicy(), rng().random, lambda name, text, **_: None)
    fleet.intent.scale(count)
    return fleet


def _names(fleet: Fleet) -> tuple[list[str], list[str]]:
    group = fleet.intent.group()
    return list(group.instances), list(group.standbys)


@pytest.mark.parametrize(("count", "spares", "capacity", "standbys"), [
    (2, 0, None, []), (2, 1, None, [C]), (1, 2, None, [B, C]), (2, 2, 3, [C]), (3, 1, 3, []), (0, 2, None, []),
])  # fmt: skip
def test_there_are_as_many_as_are_asked_for_and_fit(
    count: int, spares: int, capacity: int | None, standbys: list[str]
) -> None:
    assert _names(_group(count, spares, capacity))[1] == standbys


def test_scaling_takes_their_places_and_gives_them_back() -> None:
    fleet = _group(2, 1, 4)
    fleet.intent.scale(3)
    assert _names(fleet) == ([A, B, C], ["instance_3"])
    fleet.intent.scale(4)
    assert _names(fleet)[1] == []
    fleet.intent.scale(1)
    assert _names(fleet) == ([A], [B])


def test_a_model_that_sleeps_has_none() -> None:
    fleet = _group()
    fleet.intent.sleep(DEFAULT)
    assert _names(fleet) == ([A, B], [])
    fleet.intent.wake(DEFAULT)
    assert _names(fleet) == ([A, B], [C])


def test_roles_are_stored_and_an_earlier_release_reads_what_it_knows() -> None:
    fleet = _group()
    fleet.intent.promote(C, A)
    kept = fleet.intent.durable()["desired"]
    later = _group(1)
    later.intent.restore(kept, None)
    assert _names(later) == _names(fleet) == ([B, C], [A])
    assert set(kept["instances"]) == {B, C}
    assert "standbys" not in _group(spares=0).intent.durable()["desired"]


def test_the_weight_belongs_to_the_place() -> None:
    fleet = _group()
    fleet.intent.weights = {A: 5, B: 2}
    fleet.intent.promote(C, A)
    assert fleet.intent.weights == {C: 5, B: 2}


# who takes whose place


def _seen(name: str, state: S = S.READY, **more: Any) -> InstanceObserved:
    seen = InstanceObserved(name, state, 0.0, main_alive=state in RUNNING, tree_empty=state not in RUNNING)
    return replace(seen, **more)


@pytest.mark.parametrize("lost", [
    _seen(A, S.BACKOFF), _seen(A, S.FAILED), _seen(A, S.UNHEALTHY), _seen(A, S.STARTING), _seen(A, S.STOPPING),
    _seen(A, hung="no token"), _seen(A, S.STOPPED),
], ids=lambda seen: f"{seen.state} {seen.hung or ''}".strip())  # fmt: skip
def test_it_takes_the_place_of_who_does_not_serve_before_anything_is_started_or_killed(lost: InstanceObserved) -> None:
    group = WorkerGroup(instances={A: InstanceDesired(), B: InstanceDesired()}, standbys={C: InstanceDesired()})
    observed = {one.id: one for one in (lost, _seen(B), _seen(C))}
    assert reconcile(DesiredState({DEFAULT: group}), observed, 0.0)[0] == Promote(C, A)


@pytest.mark.parametrize(("first", "standby"), [
    (_seen(A), _seen(C)), (_seen(A, S.BACKOFF), _seen(C, S.STARTING)), (_seen(A, S.BACKOFF), _seen(C, cordoned=True)),
    (_seen(A, S.BACKOFF), _seen(C, hung="no token")), (_seen(A, S.BACKOFF), None),
    (_seen(A, cordoned=True), _seen(C)), (_seen(A, S.UNHEALTHY, cordoned=True), _seen(C)),
])  # fmt: skip
def test_nobody_takes_a_place_that_is_held_or_without_being_ready(
    first: InstanceObserved, standby: InstanceObserved | None
) -> None:
    group = WorkerGroup(instances={A: InstanceDesired()}, standbys={C: InstanceDesired()})
    observed = {one.id: one for one in (first, standby) if one is not None}
    assert not list(promotions(group, observed, None))


def test_one_without_an_adapter_comes_last_and_one_that_is_gone_is_replaced_first() -> None:
    group = WorkerGroup(
        instances={A: InstanceDesired(), B: InstanceDesired()}, standbys={C: InstanceDesired(), "d": InstanceDesired()}
    )
    observed = {
        A: _seen(A, S.UNHEALTHY), B: _seen(B, S.BACKOFF), C: _seen(C, missing_adapters=True), "d": _seen("d"),
    }  # fmt: skip
    assert list(promotions(group, observed, None)) == [("d", B), (C, A)]


def test_a_restart_that_is_asked_for_costs_nothing_either() -> None:
    group = WorkerGroup(instances={A: InstanceDesired(1), B: InstanceDesired()}, standbys={C: InstanceDesired()})
    assert list(promotions(group, {A: _seen(A), B: _seen(B), C: _seen(C)}, None)) == [(C, A)]


# whole lives


class World:
    """A fleet whose workers get ready when a test says so."""

    def __init__(self, count: int, spares: int) -> None:
        self.clock, self.fleet, self.number = Clock(), _group(count, spares), 0

    def step(self) -> list[Action]:
        actions = reconcile(self.fleet.intent.desired, self.fleet.observed(), self.clock())
        kinds = [type(action) for action in actions]
        assert Promote not in kinds[kinds.count(Promote):], "somebody waited for something else"
        before = self.serving()
        for action in actions:
            self._perform(action)
            if isinstance(action, Promote):
                assert self.serving() >= before
            self.check()
        return actions

    def _perform(self, action: Action) -> None:
        fleet, now = self.fleet, self.clock()
        match action:
            case Promote(id=name, place=place):
                assert name in fleet.intent.group().standbys and place in fleet.intent.group().instances
                fleet.intent.promote(name, place)
            case Admit(id=name):
                fleet.admit(name, Slot(), now)
            case Retire(id=name):
                del fleet.instances[name]
            case Dismiss(id=name):
                fleet.intent.dismiss_spare(name)
            case Start(id=name, fresh=fresh, keep=keep):
                self.number += 1
                nowhere = Path("nowhere")
                at = WorkerEndpoint(1)
                spec = WorkerSpec(name, self.number, ("true",), {}, nowhere, nowhere, nowhere, at, "key")
                fleet.starting(fleet.instances[name], spec, now, fresh, keep)
                fleet.started(fleet.instances[name], FakeHandle(self.number), 0.0)
            case Drain(id=name):
                fleet.drain(fleet.instances[name], now, (1, 1), balancer=False)
            case Stop(id=name, reason=reason) | Kill(id=name, reason=reason):
                fleet.stopping(fleet.instances[name], reason, now, isinstance(action, Kill) and action.failure)
                self.die(name)

    def die(self, name: str) -> None:
        instance = self.fleet.instances[name]
        if instance.handle is not None:
            self.fleet.exited(instance, -9, [], self.clock(), 0.0)
            self.fleet.tree_empty(instance, self.clock())

    def serving(self) -> int:
        return sum(self._shown(name) in TAKES_NEW for name in self.fleet.instances)

    def _shown(self, name: str) -> str:
        return self.fleet.intent.shown(name, str(self.fleet.instances[name].state))

    def check(self) -> None:
        group = self.fleet.intent.group()
        assert len(group.standbys) <= group.standby_count and not set(group.standbys) & set(group.instances)
        assert not [name for name in group.standbys if name in self.fleet.instances and self._shown(name) in TAKES_NEW]
        assert self.serving() <= group.count + len(group.spares) + sum(
            name not in group.wanted for name in self.fleet.instances
        )

    def rest(self) -> None:
        for _ in range(60):
            busy = self.step()
            states = {instance.state for instance in self.fleet.instances.values()}
            if not busy and states <= {S.READY, S.FAILED}:
                return
            for instance in self.fleet.instances.values():
                if instance.state in (S.STARTING, S.UNHEALTHY):
                    self.fleet.ready(instance, (), self.clock())
            self.clock.advance(70.0)
        raise AssertionError("it does not come to rest")


_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(("die", "ready", "unhealthy", "hung", "scale", "restart", "roll", "spares", "wait", "rest")),
        st.integers(0, 4),
    ),
    max_size=25,
)


@given(count=st.integers(1, 3), spares=st.integers(0, 2), events=_EVENTS)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_whatever_happens_none_is_sent_anything_before_its_turn_and_all_are_there_in_the_end(
    count: int, spares: int, events: list[tuple[str, int]]
) -> None:
    world = World(count, spares)
    world.rest()
    for kind, number in events:
        _happen(world, kind, number)
        world.check()
        world.step()
    world.rest()
    group = world.fleet.intent.group()
    assert len(group.standbys) == (group.standby_count if group.count else 0)
    assert set(world.fleet.instances) == set(group.wanted)
    assert world.serving() == group.count or any(one.state is S.FAILED for one in world.fleet.instances.values())


def _happen(world: World, kind: str, number: int) -> None:
    fleet, now = world.fleet, world.clock()
    names = list(fleet.instances)
    one = fleet.instances[names[number % len(names)]] if names else None
    wanted = list(fleet.intent.group().lasting)
    match kind:
        case "die" if one is not None and one.state in RUNNING:
            world.die(one.id)
        case "ready" if one is not None and one.handle is not None:
            fleet.ready(one, (), now)
        case "unhealthy" if one is not None:
            fleet.unhealthy(one, "no answer", now, lost=bool(number % 2))
        case "hung" if one is not None:
            fleet.hung(one, "no token")
        case "scale":
            fleet.intent.scale(number)
        case "restart" if wanted:
            fleet.intent.restart(wanted[number % len(wanted)])
        case "roll":
            fleet.intent.restart_rolling()
        case "spares":
            fleet.intent.desired = fleet.intent.desired.with_group(
                replace(fleet.intent.group(), standby_count=number % 3)
            )
            fleet.intent.fill()
        case "wait":
            world.clock.advance(10.0)
        case "rest":
            world.rest()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_rolling_restart_begins_with_the_standby_and_never_has_fewer_ready(count: int) -> None:
    world = World(count, 1)
    world.rest()
    started = world.number
    world.fleet.intent.restart_rolling()
    first: list[str] = []
    for _ in range(20 * count):
        first += [action.id for action in world.step() if isinstance(action, Drain)]
        assert world.serving() == count
        for instance in world.fleet.instances.values():
            if instance.state is S.STARTING:
                world.fleet.ready(instance, (), world.clock())
        world.clock.advance(1.0)
    assert first[0] == f"instance_{count}" and world.number == started + count + 1
    assert all(instance.generation == 1 for instance in world.fleet.instances.values())
    found = rolling.progress(world.fleet.intent.desired, world.fleet.observed())
    assert (found.active, found.done, found.total) == (False, count, count)


def test_settings_that_do_not_work_stop_at_the_standby() -> None:
    world = World(2, 1)
    world.rest()
    world.fleet.intent.restart_rolling()
    for _ in range(40):
        world.step()
        assert world.serving() == 2
        if world.fleet.instances[C].state is S.STARTING:
            world.die(C)
        world.clock.advance(70.0)
    found = rolling.progress(world.fleet.intent.desired, world.fleet.observed())
    assert (found.active, found.done, found.stopped_by) == (True, 0, C)
