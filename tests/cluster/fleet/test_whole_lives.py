"""Whole fleets lived through in fake time.

`Life` is a state machine that changes what is desired, lets workers crash, leave orphans, ignore SIGTERM, come up,
fail probes and drain, in any order, and performs what the reconciler asks for as the supervisor does. Safety is
checked at every action; at the end of every life the fleet has to come to rest at what is desired."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cluster.fleet import rolling
from cluster.fleet.groups import DEFAULT, instance_name
from cluster.fleet.instance import Instance
from cluster.fleet.reconciler import (
    Action,
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
)
from cluster.fleet.states import (
    RUNNING,
    WorkerState,
)
from fleetworld import World, gpus_of

S = WorkerState
MOST = 4

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
        freed = {g for a in actions if isinstance(a, Stop | Kill) and a.id in starting for g in gpus_of(a.id)}
        drained = {a.id for a in actions if isinstance(a, Drain)} if not self.world.balancer else set()
        dismissed = {a.id for a in actions if isinstance(a, Dismiss)}

        def expected(action: Action) -> bool:
            match action:
                case Drain(id=n) | Stop(id=n) | Kill(id=n) | Sweep(id=n) | Retire(id=n) if n in dismissed:
                    return True
                case Kill() | Sweep():  # repeated until the process is seen to be gone
                    return action in actions
                case Start(id=name) | Wake(id=name):
                    return bool(freed & set(gpus_of(name)))
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
