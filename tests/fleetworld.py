"""A fleet in fake time for tests: what is really there of each worker, and what the supervisor hears of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cluster.fleet.fleet import Fleet
from cluster.fleet.groups import InstanceDesired
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
    DesiredState,
    WorkerState,
)
from fakedriver import FakeHandle
from fakes import Clock, rng
from worker.drivers.base import Handle
from worker.spec import Slot, WorkerEndpoint, WorkerSpec

S = WorkerState


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
                self.fleet.admit(name, Slot(gpus=gpus_of(name)), now)
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


def gpus_of(name: str) -> tuple[int, ...]:
    """Two share GPU 0, one has GPU 1, one spans both."""
    return {"instance_0": (0,), "instance_1": (1,), "instance_2": (0,)}.get(name, (0, 1))


def _spec(name: str, incarnation: int) -> WorkerSpec:
    nowhere = Path("nowhere")
    return WorkerSpec(name, incarnation, ("true",), {}, nowhere, nowhere, nowhere, WorkerEndpoint(1), "key")
