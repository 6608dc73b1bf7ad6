"""The reconciler: examples of single decisions, then whole fleets lived through in fake time.

`Life` is a state machine that changes what is desired, lets workers crash, leave orphans, ignore SIGTERM, come up,
fail probes and drain, in any order, and performs what the reconciler asks for as the supervisor does. Safety is
checked at every action; at the end of every life the fleet has to come to rest at what is desired."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cluster.fleet import rolling
from cluster.fleet.fleet import Fleet
from cluster.fleet.groups import DEFAULT, InstanceDesired, WorkerGroup, instance_name
from cluster.fleet.instance import Instance
from cluster.fleet.reconciler import (
    Action,
    Admit,
    Dismiss,
    Drain,
    Exit,
    Kill,
    Retire,
    Sleep,
    Start,
    Stop,
    Sweep,
    Wake,
    reconcile,
)
from cluster.fleet.restart import RestartPolicy
from cluster.fleet.states import (
    RUNNING,
    TRANSITIONS,
    DesiredState,
    IllegalTransition,
    InstanceObserved,
    WorkerState,
)
from fakedriver import FakeHandle
from fakes import Clock, rng
from worker.drivers.base import Handle
from worker.spec import Slot, WorkerEndpoint, WorkerSpec

S = WorkerState
MOST = 4


# single decisions


def _wanting(instances: Mapping[str, InstanceDesired], **more: Any) -> DesiredState:
    """In one group; it has whatever names."""
    return DesiredState({DEFAULT: WorkerGroup(instances=instances)}, **more)


def _desired(*names: str, **more: Any) -> DesiredState:
    return _wanting({n: InstanceDesired() for n in names}, **more)


def _seen(name: str, state: S, since: float = 0.0, **more: Any) -> InstanceObserved:
    alive = state in RUNNING
    seen = InstanceObserved(name, state, since, main_alive=alive, tree_empty=not alive)
    return replace(seen, **more)


def _actions(desired: DesiredState, *seen: InstanceObserved, now: float = 0.0) -> list[Action]:
    return reconcile(desired, {i.id: i for i in seen}, now)


def test_what_is_wanted_and_not_there_is_admitted_in_order() -> None:
    assert _actions(_desired("a", "b")) == [Admit("a"), Admit("b")]


def test_an_admitted_worker_is_started_with_a_clean_record() -> None:
    assert _actions(_desired("a"), _seen("a", S.STOPPED)) == [Start("a", fresh=True)]


@pytest.mark.parametrize(("now", "actions"), [(4.9, []), (5.0, [Start("a")])])
def test_a_crashed_worker_is_started_when_its_delay_is_over(now: float, actions: list[Action]) -> None:
    assert _actions(_desired("a"), _seen("a", S.BACKOFF, restart_at=5.0), now=now) == actions


@pytest.mark.parametrize("state", [S.BACKOFF, S.FAILED, S.STOPPED, S.STOPPING])
@pytest.mark.parametrize("desired", [_desired("a"), _desired(), _desired(shutting_down=True, kill_now=True)])
def test_what_a_dead_worker_left_behind_is_swept_before_anything_else(state: S, desired: DesiredState) -> None:
    seen = _seen("a", state, main_alive=False, tree_empty=False, generation=-1)
    assert _actions(desired, seen, now=1e9) == [Sweep("a")]


@pytest.mark.parametrize("state", [S.READY, S.UNHEALTHY])
def test_a_hung_worker_is_killed_at_once_and_has_failed(state: S) -> None:
    seen = _seen("a", state, hung="hung: no token for 10.4 s")
    assert _actions(_desired("a"), seen) == [Kill("a", "hung: no token for 10.4 s", failure=True)]


def test_a_hung_worker_that_was_to_end_is_not_waited_for() -> None:
    seen = _seen("a", S.DRAINING, in_flight=3, hung="hung: no token for 10.4 s")
    assert _actions(_desired(), seen) == [Kill("a", "hung: no token for 10.4 s")]


@pytest.mark.parametrize("state", [S.FAILED, S.READY, S.STARTING, S.UNHEALTHY])
def test_a_worker_that_is_where_it_should_be_is_left_alone(state: S) -> None:
    assert _actions(_desired("a"), _seen("a", state), now=600.0) == []


def test_a_start_that_takes_too_long_is_a_failure() -> None:
    (kill,) = _actions(_desired("a", startup_timeout=9.0), _seen("a", S.STARTING), now=9.1)
    assert kill == Kill("a", "not ready within 9 s", failure=True)


def test_a_worker_whose_probes_keep_failing_is_killed_as_a_failure() -> None:
    (kill,) = _actions(_desired("a"), _seen("a", S.UNHEALTHY, failing_probes=True))
    assert isinstance(kill, Kill) and kill.failure


@pytest.mark.parametrize("state", [S.BACKOFF, S.FAILED])
def test_a_restart_that_is_asked_for_clears_the_record_at_once(state: S) -> None:
    desired = _wanting({"a": InstanceDesired(generation=1)})
    assert _actions(desired, _seen("a", state, restart_at=99.0)) == [Start("a", fresh=True)]


@pytest.mark.parametrize("state", [S.READY, S.UNHEALTHY])
@pytest.mark.parametrize("desired", [_desired(), _wanting({"a": InstanceDesired(1)})])
def test_a_serving_worker_is_drained_before_it_ends(state: S, desired: DesiredState) -> None:
    assert _actions(desired, _seen("a", state)) == [Drain("a")]


@pytest.mark.parametrize("desired", [_desired(), _wanting({"a": InstanceDesired(1)})])
def test_a_starting_worker_ends_without_a_drain(desired: DesiredState) -> None:
    (stop,) = _actions(desired, _seen("a", S.STARTING))
    assert isinstance(stop, Stop)


@pytest.mark.parametrize(
    ("in_flight", "now", "reason"),
    [
        (0, 0.0, "drained"),
        (None, 0.0, None),
        (2, 29.9, None),
        (2, 30.0, "drain timeout of 30 s"),
        (None, 30.0, "drain timeout of 30 s"),
    ],
)
@pytest.mark.parametrize("desired", [_desired(), _desired("a")])
def test_a_drain_ends_when_nothing_runs_or_time_is_up(
    desired: DesiredState, in_flight: int | None, now: float, reason: str | None
) -> None:
    expected = [Stop("a", reason)] if reason else []
    assert _actions(desired, _seen("a", S.DRAINING, in_flight=in_flight), now=now) == expected


@pytest.mark.parametrize(("now", "kills"), [(9.9, 0), (10.0, 1)])
@pytest.mark.parametrize("desired", [_desired(), _desired("a")])
def test_a_worker_that_does_not_stop_is_killed(desired: DesiredState, now: float, kills: int) -> None:
    actions = _actions(desired, _seen("a", S.STOPPING), now=now)
    assert [type(a) for a in actions] == [Kill] * kills
    assert not any(a.failure for a in actions if isinstance(a, Kill))


@pytest.mark.parametrize("state", [S.BACKOFF, S.FAILED, S.STOPPED])
def test_what_is_neither_wanted_nor_running_is_forgotten(state: S) -> None:
    assert _actions(_desired(), _seen("a", state)) == [Retire("a")]


@pytest.mark.parametrize("state", sorted(RUNNING))
def test_a_hurried_shutdown_kills_whatever_runs(state: S) -> None:
    desired = _desired("a", shutting_down=True, kill_now=True)
    assert _actions(desired, _seen("a", state)) == [Kill("a", "asked to end at once")]


def test_a_shutdown_starts_nothing_and_exits_when_all_is_gone() -> None:
    desired = _desired("a", "b", shutting_down=True)
    assert _actions(desired, _seen("b", S.STOPPED)) == [Retire("b")]
    assert _actions(desired) == [Exit()]
    assert _actions(_desired()) == []


def test_two_workers_of_one_gpu_start_one_after_the_other() -> None:
    a, b, c = (_seen(n, S.STOPPED, gpus=g) for n, g in (("a", (0, 1)), ("b", (1,)), ("c", (2,))))
    desired = _desired("a", "b", "c")
    assert _actions(desired, a, b, c) == [Start("a", fresh=True), Start("c", fresh=True)]
    assert _actions(desired, replace(a, state=S.STARTING), b, replace(c, state=S.READY)) == []
    assert _actions(desired, replace(a, state=S.READY), b, replace(c, state=S.READY)) == [Start("b", fresh=True)]


def test_a_worker_that_is_not_wanted_any_more_still_holds_its_gpu_while_it_starts() -> None:
    actions = _actions(_desired("a"), _seen("a", S.STOPPED, gpus=(0,)), _seen("b", S.STARTING, gpus=(0,)))
    assert [type(a) for a in actions] == [Stop]


ROLL = _wanting({n: InstanceDesired(1, rolling=True) for n in "abc"})


def test_a_rolling_restart_takes_one_worker_if_all_others_are_ready() -> None:
    ready = [_seen(n, S.READY) for n in "abc"]
    assert _actions(ROLL, *ready) == [Drain("a")]
    assert _actions(ROLL, replace(ready[0], generation=1), *ready[1:]) == [Drain("b")]


@pytest.mark.parametrize("state", sorted(set(S) - {S.READY, S.ASLEEP}))
def test_a_rolling_restart_waits_for_a_worker_that_is_not_ready(state: S) -> None:
    seen = _seen("a", state, generation=1, restart_at=99.0, in_flight=1)
    actions = _actions(ROLL, seen, _seen("b", S.READY), _seen("c", S.READY))
    assert not [a for a in actions if not isinstance(a, Start)]


def test_a_rolling_restart_begins_with_a_worker_that_serves_nobody() -> None:
    seen = [_seen("a", S.READY), _seen("b", S.FAILED), _seen("c", S.READY)]
    assert _actions(ROLL, *seen) == [Start("b", fresh=True)]


def test_a_rolling_restart_waits_for_a_worker_that_somebody_restarts_by_hand() -> None:
    """Else both go down at once, although the rolling one could have known."""
    desired = _wanting({"a": InstanceDesired(1, rolling=True), "b": InstanceDesired(2)})
    assert _actions(desired, _seen("a", S.READY), _seen("b", S.READY)) == [Drain("b")]


SPARE = ROLL.with_group(replace(ROLL.groups[DEFAULT], spares={"s": InstanceDesired(0, rolling=True)}))


def test_a_spare_is_started_before_anything_is_taken_down() -> None:
    ready = [_seen(n, S.READY) for n in "abc"]
    assert _actions(SPARE, *ready) == [Admit("s")]
    assert _actions(SPARE, *ready, _seen("s", S.STOPPED)) == [Start("s", fresh=True)]
    assert _actions(SPARE, *ready, _seen("s", S.STARTING)) == []
    assert _actions(SPARE, *ready, _seen("s", S.FAILED)) == []
    assert _actions(SPARE, *ready, _seen("s", S.READY)) == [Drain("a")]


def test_a_spare_goes_when_all_are_back() -> None:
    done = [_seen(n, S.READY, generation=1) for n in "ab"]
    spare = _seen("s", S.READY)
    assert _actions(SPARE, *done, _seen("c", S.STARTING, generation=1), spare) == []
    back = (*done, _seen("c", S.READY, generation=1), spare)
    assert _actions(SPARE, *back) == [Dismiss("s")]
    assert _actions(ROLL, *back) == [Drain("s")]


def test_a_spare_stays_for_a_worker_that_does_not_come_back() -> None:
    seen = [_seen("a", S.FAILED, generation=1), *(_seen(n, S.READY) for n in "bcs")]
    assert _actions(SPARE, *seen) == []


@pytest.mark.parametrize("who", ["s", "a"])
def test_one_that_refuses_what_others_hold_stops_a_rolling_restart(who: str) -> None:
    """It is ready, for the base model alone: the others are the last that hold the adapters."""
    ready = {n: _seen(n, S.READY) for n in "abcs"}
    desired = SPARE if who == "s" else ROLL
    if who == "a":
        del ready["s"]
    ready[who] = replace(ready[who], generation=desired.wanted[who].generation, missing_adapters=True)
    assert _actions(desired, *ready.values()) == []
    seen = rolling.progress(desired, ready)
    assert (seen.active, seen.done, seen.stopped_by) == (True, 0, who)
    ready[who] = replace(ready[who], missing_adapters=False)
    assert _actions(desired, *ready.values()) == [Drain("a" if who == "s" else "b")]
    assert rolling.progress(desired, ready).stopped_by is None


def test_a_spare_stays_while_it_alone_holds_what_the_last_one_refuses() -> None:
    back = [_seen(n, S.READY, generation=1) for n in "abc"]
    back[2] = replace(back[2], missing_adapters=True)
    assert _actions(SPARE, *back, _seen("s", S.READY)) == []
    assert rolling.progress(SPARE, {i.id: i for i in [*back, _seen("s", S.READY)]}).stopped_by == "c"


def test_one_that_refused_an_adapter_before_is_rolled_like_all() -> None:
    ready = [_seen(n, S.READY, missing_adapters=n == "a") for n in "abc"]
    assert _actions(ROLL, *ready) == [Drain("a")]
    assert rolling.progress(ROLL, {i.id: i for i in ready}).stopped_by is None


def test_a_shutdown_ends_the_spare_like_all_others() -> None:
    ready = [_seen(n, S.READY) for n in "abcs"]
    assert sorted(a.id for a in _actions(replace(SPARE, shutting_down=True), *ready) if isinstance(a, Drain)) == [
        "a", "b", "c", "s",
    ]  # fmt: skip


@pytest.mark.parametrize(("state", "fresh"), [(S.BACKOFF, False), (S.STOPPED, True)])
def test_a_worker_that_is_not_to_be_rolled_yet_is_started_with_what_it_had(state: S, fresh: bool) -> None:
    """The one that was rolled has failed: what it was started with is not for the others."""
    seen = [_seen("a", S.FAILED, generation=1), _seen("b", state), _seen("c", S.READY)]
    assert _actions(ROLL, *seen) == [Start("b", fresh=fresh, keep=True)]


def test_a_drained_worker_is_rolled_first_and_counts_as_nobody() -> None:
    a, b, c = (_seen(n, S.READY) for n in "abc")
    assert _actions(ROLL, a, replace(b, cordoned=True), c) == [Drain("b")]
    assert _actions(ROLL, a, replace(b, cordoned=True, generation=1), c) == []
    assert _actions(SPARE, a, replace(b, cordoned=True, generation=1), c, _seen("s", S.READY)) == [Drain("a")]


ASLEEP = _wanting({"a": InstanceDesired(asleep=True)})


@pytest.mark.parametrize(
    ("seen", "actions"),
    [
        (_seen("a", S.READY), [Drain("a")]), (_seen("a", S.UNHEALTHY), [Drain("a")]),
        (_seen("a", S.DRAINING, in_flight=None), []), (_seen("a", S.DRAINING, in_flight=1), []),
        (_seen("a", S.DRAINING), [Sleep("a")]), (_seen("a", S.DRAINING, dozing=True), []),
        (_seen("a", S.DRAINING, hung="it refuses"), [Kill("a", "it refuses", failure=True)]),
        (_seen("a", S.ASLEEP), []), (_seen("a", S.STARTING), [Stop("a", "restart asked for")]),
        *((_seen("a", state), []) for state in (S.BACKOFF, S.FAILED, S.STOPPED)),
        (_seen("a", S.FAILED, tree_empty=False, main_alive=False), [Sweep("a")]),
    ],
)  # fmt: skip
def test_one_that_is_to_sleep_is_drained_first_and_is_not_started(
    seen: InstanceObserved, actions: list[Action]
) -> None:
    """However long its requests take."""
    assert _actions(ASLEEP, seen, now=10.0**6) == actions


def test_one_that_sleeps_is_woken_where_nothing_starts_on_its_gpu() -> None:
    asleep = _seen("a", S.ASLEEP, gpus=(0,))
    assert _actions(_desired("a"), asleep) == [Wake("a")]
    assert _actions(_desired("a", "b"), asleep, _seen("b", S.STARTING, gpus=(0,))) == []
    assert _actions(_desired("a"), _seen("a", S.DRAINING, dozing=True)) == [], "when it sleeps"
    assert _actions(_desired(), asleep) == [Stop("a", "not wanted any more")]
    altered = _seen("a", S.STARTING, hung="it answers otherwise")
    assert _actions(_desired("a"), altered) == [Kill("a", "it answers otherwise", failure=True)]


@pytest.mark.parametrize("old", S)
def test_only_transitions_of_the_table_are_possible(old: S) -> None:
    for new in S:
        instance = Instance("instance_0", Slot(), state=old)
        if new in (old, *TRANSITIONS[old]):
            instance.enter(new, 1.0, "why")
            assert (instance.state, instance.reason) == (new, "why")
        else:
            with pytest.raises(IllegalTransition, match=f"{old} -> {new}"):
                instance.enter(new, 1.0, "why")
            assert instance.state is old


def test_from_every_state_a_worker_can_both_serve_and_be_gone() -> None:
    def reachable(state: S) -> set[S]:
        found, todo = {state}, [state]
        while todo:
            new = TRANSITIONS[todo.pop()] - found
            found |= new
            todo += new
        return found

    assert all({S.READY, S.STOPPED} <= reachable(state) for state in S)


# whole lives


@dataclass
class Body:
    """What is really there of one worker, whether the supervisor knows it yet or not."""

    main: bool = False
    orphans: bool = False
    stubborn: bool = False


class World:
    """A fleet, real bodies, and the events that are on their way to the supervisor."""

    def __init__(self, count: int) -> None:
        self.clock = Clock()
        desired = DesiredState(drain_timeout=30.0, stop_grace=10.0, startup_timeout=600.0)
        self.fleet = Fleet(desired, RestartPolicy(), rng().random, lambda name, text, **_: None)
        self.fleet.intent.scale(count)
        self.bodies: dict[str, Body] = {}
        self.events: list[Callable[[], None]] = []
        self.version = 0
        self.starts = 0
        self.exited = False
        self.balancer = True

    @property
    def wanted(self) -> dict[str, InstanceDesired]:
        return dict(self.fleet.intent.desired.wanted)

    def instance(self, name: str) -> Instance:
        return self.fleet.instances[name]

    def decide(self) -> list[Action]:
        return reconcile(self.fleet.intent.desired, self.fleet.observed(), self.clock())

    def settled(self) -> bool:
        instances = self.fleet.instances
        if self.fleet.intent.desired.shutting_down:
            return self.exited
        return set(instances) == set(self.wanted) and all(map(self._at_rest, instances.values()))

    def _at_rest(self, instance: Instance) -> bool:
        gone, asleep = instance.state in (S.FAILED, S.BACKOFF, S.STOPPED), self.wanted[instance.id].asleep
        at_rest = gone or instance.state is S.ASLEEP if asleep else instance.state in (S.READY, S.FAILED)
        return at_rest and instance.tree_empty == gone

    # what happens to workers

    def die(self, name: str, orphans: bool = False) -> None:
        body, handle = self.bodies[name], self.instance(name).handle
        if not body.main:
            return
        body.main, body.orphans = False, body.orphans or orphans
        self.events.append(lambda: self._exit(name, handle))

    def _exit(self, name: str, handle: Handle | None) -> None:
        if (instance := self.fleet.instances.get(name)) is not None and instance.handle is handle:
            self.fleet.exited(instance, 1, [], self.clock(), 0.0)

    def deliver(self) -> None:
        events, self.events = self.events, []
        for event in events:
            event()

    # what the supervisor does

    def step(self) -> list[Action]:
        """One round of the supervisor, with the second half that starts what was admitted."""
        actions = self.perform_batch()
        if any(isinstance(a, Admit) for a in actions):
            actions += self.perform_batch()
        return actions

    def perform_batch(self) -> list[Action]:
        actions = self.decide()
        self._check_batch(actions)
        for action in actions:
            self._perform(action)
        self.version += 1
        return actions

    def _check_batch(self, actions: list[Action]) -> None:
        names = [a.id for a in actions if not isinstance(a, Exit)]
        assert len(names) == len(set(names)), "two actions for one worker at once"
        down = [a for a in actions if isinstance(a, Drain | Stop | Kill) and self._takes_down(a.id)]
        wanted = {a.id: self.wanted[a.id] for a in down}
        rolled = [a for a in down if isinstance(a, Drain) and wanted[a.id].rolling and not wanted[a.id].asleep]
        if rolled:
            assert len(rolled) == 1, "a rolling restart took two down at once"
            left = self.ready() - {a.id for a in down}
            assert len(left) >= len(self.fleet.intent.desired.instances) - 1, "a rolling restart went below N-1"

    def ready(self) -> set[str]:
        """Who is in rotation, whether it is wanted or not."""
        cordons = self.fleet.intent.cordons
        return {i.id for i in self.fleet.instances.values() if i.state is S.READY and i.id not in cordons}

    def _takes_down(self, name: str) -> bool:
        serving = self.instance(name).state in (S.READY, S.UNHEALTHY) and name not in self.fleet.intent.cordons
        return name in self.wanted and serving

    def _perform(self, action: Action) -> None:
        now = self.clock()
        match action:
            case Exit():
                assert self.fleet.intent.desired.shutting_down and not self.fleet.instances
                self.exited = True
            case Admit(id=name):
                assert name in self.wanted
                self.fleet.admit(name, Slot(gpus=_gpus(name)), now)
                self.bodies[name] = Body()
            case Dismiss(id=name):
                assert name in self.fleet.intent.desired.spares
                assert set(self.fleet.intent.desired.instances) <= self.ready() | set(self.fleet.intent.cordons)
                self.fleet.intent.dismiss_spare(name)
            case Start(id=name, fresh=fresh, keep=keep):
                self._start(self.instance(name), fresh, keep)
            case Drain(id=name):
                self.fleet.drain(self.instance(name), now, (1, self.version + 1), self.balancer)
            case Sleep(id=name):
                assert self.wanted[name].asleep
                self._lay_down(self.instance(name))
            case Wake(id=name):
                assert not self.wanted[name].asleep
                self._check_gpu(self.instance(name))
                self.fleet.waking(self.instance(name), now)
            case Stop(id=name, reason=reason):
                self.fleet.stopping(self.instance(name), reason, now)
                if not self.bodies[name].stubborn:
                    self.die(name)
            case Kill(id=name, reason=reason, failure=failure):
                assert self.instance(name).handle is not None
                self.fleet.stopping(self.instance(name), reason, now, failure)
                self.bodies[name].orphans = False
                self.die(name)
            case Sweep(id=name):
                instance = self.instance(name)
                assert not self.bodies[name].main
                self.bodies[name].orphans = False
                self.events.append(lambda: None if instance.tree_empty else self.fleet.tree_empty(instance, now))
            case Retire(id=name):
                assert name not in self.wanted
                assert not self.bodies[name].main and not self.bodies[name].orphans
                del self.fleet.instances[name]

    def _lay_down(self, instance: Instance) -> None:
        self.fleet.dozes(instance)
        incarnation, now = instance.incarnation, self.clock()
        if incarnation % 3:
            self.events.append(lambda: self.fleet.asleep(instance, {"": ["", None]}, now, incarnation))
        else:
            self.events.append(lambda: self.fleet.useless(instance, "it refuses", incarnation))

    def _check_gpu(self, instance: Instance) -> None:
        for other in self.fleet.instances.values():
            sharing = set(other.slot.gpus) & set(instance.slot.gpus)
            assert other.state is not S.STARTING or not sharing, "two starts on one GPU at once"

    def _start(self, instance: Instance, fresh: bool, keep: bool) -> None:
        body = self.bodies[instance.id]
        assert instance.id in self.wanted
        assert not body.main and instance.handle is None, "started while its main process lives"
        assert not body.orphans and instance.tree_empty, "started while something of its session lives"
        self._check_gpu(instance)
        self.starts += 1
        before = instance.generation
        self.fleet.starting(instance, _spec(instance.id, self.starts), self.clock(), fresh, keep)
        assert instance.generation == (before if keep else self.wanted[instance.id].generation)
        self.fleet.started(instance, FakeHandle(self.starts), 0.0)
        self.bodies[instance.id] = Body(main=True)

    def rest(self) -> None:
        """Lets time pass in which nothing goes wrong any more."""
        self.balancer = True
        for _ in range(60):
            self.deliver()
            busy = [a for a in self.step() if not isinstance(a, Exit)]
            if not busy and not self.events and self.settled():
                return
            for instance in self.fleet.instances.values():
                if instance.state in (S.STARTING, S.UNHEALTHY) and self.bodies[instance.id].main:
                    self.fleet.ready(instance, (), self.clock())
            self.fleet.in_flight((1, self.version), {})
            self.clock.advance(20.0)
        raise AssertionError(f"the fleet does not come to rest: {self.decide()}")


def _gpus(name: str) -> tuple[int, ...]:
    """Two share GPU 0, one has GPU 1, one spans both."""
    return {"instance_0": (0,), "instance_1": (1,), "instance_2": (0,)}.get(name, (0, 1))


def _spec(name: str, incarnation: int) -> WorkerSpec:
    nowhere = Path("nowhere")
    return WorkerSpec(name, incarnation, ("true",), {}, nowhere, nowhere, nowhere, WorkerEndpoint(1), "key")


KINDS = ("scale", "restart", "roll", "roll_with_spare", "drain", "undrain", "sleep", "wake")
CHANGES = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, MOST)), min_size=1, max_size=3)


class Life(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.world = World(3)
        self.world.rest()

    def _some(self, number: int, *states: S) -> Instance | None:
        found = [i for i in self.world.fleet.instances.values() if i.state in states]
        return found[number % len(found)] if found else None

    number = st.integers(0, MOST - 1)

    @rule()
    def step(self) -> None:
        starting = {i.id for i in self.world.fleet.instances.values() if i.state is S.STARTING}
        actions = self.world.step()
        again = self.world.decide()
        done = {type(a) for a in actions}
        # A start that ended makes room on its GPU; a drain of what the balancer sends nothing to is over at once.
        freed = {g for a in actions if isinstance(a, Stop | Kill) and a.id in starting for g in _gpus(a.id)}
        drained = {a.id for a in actions if isinstance(a, Drain)} if not self.world.balancer else set()
        dismissed = {a.id for a in actions if isinstance(a, Dismiss)}

        def expected(action: Action) -> bool:
            match action:
                case Drain(id=n) | Stop(id=n) | Kill(id=n) | Sweep(id=n) | Retire(id=n) if n in dismissed:
                    return True
                case Kill() | Sweep():  # repeated until the process is seen to be gone
                    return action in actions
                case Start(id=name) | Wake(id=name):
                    return bool(freed & set(_gpus(name)))
                case Stop(id=name) | Sleep(id=name):
                    return name in drained
                case Drain():  # one that is kept out by hand is done with as soon as it is started
                    return Start in done and any(True for _ in self.world.fleet.intent.cordons)
                case Exit():
                    return Retire in done or self.world.exited
                case _:
                    return False

        assert all(map(expected, again)), (actions, again)

    @rule(changes=CHANGES)
    def change_what_is_wanted(self, changes: list[tuple[str, int]]) -> None:
        """Several changes may come before the supervisor's next round."""
        for kind, number in changes:
            getattr(self, f"_{kind}")(number)
        self.step()

    def _scale(self, count: int) -> None:
        before = list(self.world.fleet.intent.desired.instances)
        self.world.fleet.intent.scale(count)
        after = list(self.world.fleet.intent.desired.instances)
        assert after == [instance_name(n) for n in range(count)]
        shorter, longer = sorted((before, after), key=len)
        assert longer[: len(shorter)] == shorter

    def _restart(self, number: int) -> None:
        if names := list(self.world.fleet.intent.desired.instances):
            name = names[number % len(names)]
            self.world.fleet.intent.restart(name)
            if name in self.world.fleet.instances:  # else there is nothing to restart
                asked = self.world.fleet.intent.desired.instances[name].generation
                assert asked > self.world.instance(name).generation, "a restart that nobody would notice"

    def _roll(self, _: int) -> None:
        self.world.fleet.intent.restart_rolling()

    def _roll_with_spare(self, _: int) -> None:
        self.world.fleet.intent.restart_rolling(self.world.fleet.intent.free_name())

    def _drain(self, number: int) -> None:
        version = (1, self.world.version + 1)
        self.world.fleet.intent.cordon(instance_name(number), 5.0, self.world.clock(), version, self.world.balancer)

    def _sleep(self, _: int) -> None:
        self.world.fleet.intent.sleep(DEFAULT)

    def _wake(self, _: int) -> None:
        self.world.fleet.intent.wake(DEFAULT)

    def _undrain(self, number: int) -> None:
        self.world.fleet.intent.cordons.end(instance_name(number))

    @rule(number=number, orphans=st.booleans())
    def crash(self, number: int, orphans: bool) -> None:
        if instance := self._some(number, *RUNNING):
            self.world.die(instance.id, orphans)

    @rule(number=number)
    def become_ready(self, number: int) -> None:
        instance = self._some(number, S.STARTING, S.UNHEALTHY)
        if instance and self.world.bodies[instance.id].main:
            self.world.fleet.ready(instance, (), self.world.clock())

    @rule(number=number, lost=st.booleans())
    def fail_probes(self, number: int, lost: bool) -> None:
        if instance := self._some(number, *S):
            self.world.fleet.unhealthy(instance, "no answer", self.world.clock(), lost)

    @rule(number=number)
    def ignore_sigterm(self, number: int) -> None:
        if instance := self._some(number, *RUNNING):
            self.world.bodies[instance.id].stubborn = True

    @rule(count=st.integers(0, 2), late=st.booleans())
    def report_in_flight(self, count: int, late: bool) -> None:
        version = (1, self.world.version - late)
        self.world.fleet.in_flight(version, dict.fromkeys(self.world.fleet.instances, count))

    @rule(there=st.booleans())
    def lose_or_find_the_balancer(self, there: bool) -> None:
        self.world.balancer = there
        if not there:
            self.world.fleet.balancer_lost()

    @rule()
    def deliver(self) -> None:
        self.world.deliver()
        self.step()

    @rule(seconds=st.sampled_from([0.1, 2.0, 10.0, 30.0, 601.0]))
    def wait(self, seconds: float) -> None:
        self.world.clock.advance(seconds)

    @rule()
    def live_in_peace(self) -> None:
        self.world.rest()

    @precondition(lambda self: self.world.starts > 12)
    @rule(now=st.booleans())
    def shut_down(self, now: bool) -> None:
        self.world.fleet.intent.shut_down(now)

    @invariant()
    def what_is_known_agrees_with_itself(self) -> None:
        for instance in self.world.fleet.instances.values():
            if instance.state in (S.BACKOFF, S.FAILED, S.STOPPED):
                assert instance.handle is None
            if instance.state in (S.READY, S.UNHEALTHY, S.STARTING):
                assert instance.handle is not None and not instance.tree_empty

    def teardown(self) -> None:
        self.world.rest()
        assert self.world.exited == self.world.fleet.intent.desired.shutting_down
        assert not [a for a in self.world.decide() if not isinstance(a, Exit)], "a settled fleet is not left alone"
        failed = [i for i in self.world.fleet.instances.values() if i.state is S.FAILED]
        for instance in self.world.fleet.instances.values():
            want = self.world.wanted[instance.id]
            # A rolling restart stops at a worker that has failed: going on would leave fewer than N-1.
            stopped = failed or self.world.fleet.intent.cordons
            assert instance.generation >= want.generation or (stopped and want.rolling)


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, derandomize=True, report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.mark.parametrize("count", range(1, MOST + 1))
def test_a_rolling_restart_replaces_every_worker_and_never_goes_below_all_but_one(count: int) -> None:
    world = World(count)
    world.rest()
    first = world.starts
    world.fleet.intent.restart_rolling()
    for _ in range(60 * count):
        world.deliver()
        world.step()
        ready = [i for i in world.fleet.instances.values() if i.state is S.READY]
        assert len(ready) >= count - 1
        for instance in world.fleet.instances.values():
            if instance.state is S.STARTING:
                world.fleet.ready(instance, (), world.clock())
        world.fleet.in_flight((1, world.version), {})
        world.clock.advance(1.0)
    assert world.starts == first + count
    assert world.settled() and all(i.generation == 1 for i in world.fleet.instances.values())


@pytest.mark.parametrize("count", range(1, MOST + 1))
def test_a_rolling_restart_with_a_spare_is_never_short_of_a_worker(count: int) -> None:
    world = World(count)
    world.rest()
    first = world.starts
    world.fleet.intent.restart_rolling(instance_name(count))
    for _ in range(100 * count):
        world.deliver()
        world.step()
        assert len(world.ready()) >= count
        for instance in world.fleet.instances.values():
            if instance.state is S.STARTING:
                world.fleet.ready(instance, (), world.clock())
        world.fleet.in_flight((1, world.version), {})
        world.clock.advance(1.0)
    assert world.starts == first + count + 1
    assert world.settled() and list(world.fleet.instances) == list(map(instance_name, range(count)))
    assert not world.fleet.intent.desired.spares


@given(count=st.integers(1, MOST), spare=st.booleans(), crashes=st.lists(st.integers(0, 200), max_size=6))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_what_does_not_come_back_costs_one_worker_at_most_and_none_with_a_spare(
    count: int, spare: bool, crashes: list[int]
) -> None:
    """Whoever gets the new settings never gets ready; the others crash now and then, and come back with the old."""
    world = World(count)
    world.rest()
    world.fleet.intent.restart_rolling(instance_name(count) if spare else None)
    for second in range(200):
        for instance in list(world.fleet.instances.values()):
            new = instance.generation >= 1 or instance.id in world.fleet.intent.desired.spares
            if instance.state is S.STARTING and new:
                world.die(instance.id)
            elif instance.state is S.STARTING:
                world.fleet.ready(instance, (), world.clock())
            elif instance.state is S.READY and instance.number == second % count and second in crashes:
                world.die(instance.id)
        world.deliver()
        world.step()
        world.fleet.in_flight((1, world.version), {})
        world.clock.advance(5.0)
        wanted = world.fleet.intent.desired.instances
        renewed = [i for i in world.fleet.instances.values() if i.id in wanted and i.generation]
        assert len(renewed) <= (0 if spare else 1)
    found = rolling.progress(world.fleet.intent.desired, world.fleet.observed())
    assert found.done == 0
    if spare or count > 1:  # else there is nothing left that could be stopped
        assert found.active and found.stopped_by == (instance_name(count) if spare else renewed[0].id)
    old = [i.id for i in world.fleet.instances.values() if i.id in world.wanted and not i.generation]
    world.fleet.intent.restart_rolling(None, keep=old)
    world.rest()
    assert all(i.state is S.READY for i in world.fleet.instances.values()) and len(world.fleet.instances) == count


@pytest.mark.parametrize("target", range(MOST))
def test_scaling_down_ends_the_newest_and_touches_no_other(target: int) -> None:
    world = World(MOST)
    world.rest()
    kept = {n: world.instance(n).incarnation for n in map(instance_name, range(target))}
    world.fleet.intent.scale(target)
    actions = world.step()
    assert {a.id for a in actions if not isinstance(a, Exit)} == {instance_name(n) for n in range(target, MOST)}
    world.rest()
    assert {n: i.incarnation for n, i in world.fleet.instances.items()} == kept


def test_a_crash_loop_ends_in_failed_and_leaves_the_others_alone() -> None:
    world = World(2)
    world.rest()
    for _ in range(30):
        if world.instance("instance_1").state is S.STARTING or world.instance("instance_1").state is S.READY:
            world.die("instance_1", orphans=True)
        world.deliver()
        world.step()
        world.clock.advance(61.0)
    assert world.instance("instance_1").state is S.FAILED
    assert world.instance("instance_0").incarnation == 1 and world.instance("instance_0").state is S.READY
    # one that had served is restarted at once; then five that came too early
    assert world.instance("instance_1").starts == 6
    world.fleet.intent.restart("instance_1")
    world.rest()
    assert world.instance("instance_1").state is S.READY


def test_no_more_are_started_at_once_than_there_is_room_for() -> None:
    desired = _wanting({n: InstanceDesired() for n in "abc"}, starts_at_once=2)
    seen = [_seen(n, S.STOPPED) for n in "abc"]
    assert _actions(desired, *seen) == [Start("a", fresh=True), Start("b", fresh=True)]
    assert _actions(desired, _seen("a", S.STARTING, main_alive=True), *seen[1:]) == [Start("b", fresh=True)]


def test_a_forked_start_leaves_room_for_another() -> None:
    desired = _wanting({n: InstanceDesired() for n in "abcd"}, starts_at_once=2)
    seen = [_seen(n, S.STARTING, forked=True) for n in "ab"] + [_seen(n, S.STOPPED) for n in "cd"]
    assert _actions(desired, *seen) == [Start("c", fresh=True)]
    seen[2] = _seen("c", S.STARTING, forked=True)
    assert _actions(desired, *seen) == [Start("d", fresh=True)]
    seen[2] = _seen("c", S.STARTING)
    assert _actions(desired, *seen) == []


def test_a_start_that_hangs_does_not_hold_up_the_others() -> None:
    desired = _wanting({n: InstanceDesired() for n in "ab"}, starts_at_once=1)
    hanging = _seen("a", S.STARTING, main_alive=True, since=-1000.0)
    assert Start("b", fresh=True) in reconcile(desired, {"a": hanging, "b": _seen("b", S.STOPPED)}, -800.0)
