"""The workers and what is wanted of them: every change of state is a method here, given the time. No I/O.

The supervisor calls these from its one task and performs what the reconciler then asks for.
"""

from __future__ import annotations

import dataclasses
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from cluster.events import Emit
from cluster.fleet.exit_report import WorkerExit
from cluster.fleet.groups import DEFAULT, WorkerGroup, group_of
from cluster.fleet.instance import Instance
from cluster.fleet.intent import Intent
from cluster.fleet.restart import RestartPolicy, Verdict
from cluster.fleet.states import DesiredState, ObservedState, WorkerState
from worker.drivers.base import Handle
from worker.spec import Slot, WorkerSpec

_S = WorkerState


class Fleet:
    """``emit`` is called for everything a person may want to know, once. More methods than a class should have: each is
    something that happens to a worker."""

    def __init__(
        self, desired: DesiredState, policy: RestartPolicy, random: Callable[[], float],
        emit: Emit, strategy: str = "",
    ) -> None:
        self.instances: dict[str, Instance] = {}
        self.intent = Intent(desired, self.instances, strategy)
        self.policy = policy
        self._random = random
        self._emit = emit

    # what happens

    def admit(self, name: str, slot: Slot, now: float) -> Instance:
        generation = self.intent.desired.wanted[name].generation
        instance = Instance(name, slot, since=now, generation=generation, driver=self.group_of(name).driver)
        self.instances[name] = instance
        return instance

    def starting(self, instance: Instance, spec: WorkerSpec, now: float, fresh: bool, keep: bool = False) -> None:
        """A start is under way: whatever was known of the incarnation before is void. ``keep``: its generation is
        what it was."""
        if fresh:
            instance.history = dataclasses.replace(instance.history, early=0, restarts=0)
        wanted = self.intent.desired.wanted.get(instance.id)
        instance.enter(_S.STARTING, now, "")
        instance.generation = wanted.generation if wanted and not keep else instance.generation
        instance.incarnation = spec.incarnation
        instance.spec = spec
        if instance.starts:
            cause = instance.cause or "planned"
            instance.restarted[cause] = instance.restarted.get(cause, 0) + 1
        instance.starts += 1
        instance.ready_at = instance.started_at = None
        instance.models, instance.seats = (), None
        instance.in_flight, instance.failing_probes, instance.failure = 0, False, None
        instance.hung, instance.dozing, instance.canary = None, False, {}
        instance.phase = "starting the process"

    def started(self, instance: Instance, handle: Handle, wall: float) -> None:
        instance.handle = handle
        instance.started_at = wall
        instance.tree_empty = False
        pid, port = handle.pid, handle.endpoint.port
        self._emit(
            instance.id, f"started (pid {pid}, port {port or '?'})", kind="worker.started",
            data={"pid": pid, "port": port, "incarnation": instance.incarnation, "starts": instance.starts},
        )

    def ready(self, instance: Instance, models: tuple[dict[str, Any], ...], now: float) -> None:
        if instance.state not in (_S.STARTING, _S.UNHEALTHY):
            return
        seconds = now - instance.since
        took = f" after {seconds:.1f} s"
        instance.enter(_S.READY, now, "")
        if instance.ready_at is None:
            instance.ready_at, instance.start_seconds = now, round(seconds, 3)
        instance.models = models
        instance.failing_probes, instance.phase, instance.slow, instance.canary = False, "", False, {}
        lacks = f"; refused {', '.join(instance.adapters.refused)}" if instance.adapters.refused else ""
        self._emit(
            instance.id, f"ready{took}{lacks}", kind="worker.ready",
            data={"seconds": round(seconds, 3), "incarnation": instance.incarnation},
        )

    def unhealthy(self, instance: Instance, why: str, now: float, lost: bool, slow: bool = False) -> None:
        """Probes failed often enough to take it out of rotation or, ``lost``, to give it up. ``slow``: for want of an
        answer in time."""
        if instance.state is _S.READY:
            instance.slow = instance.slow or slow
            instance.enter(_S.UNHEALTHY, now, why)
            self._emit(instance.id, f"out of rotation: {why}", kind="worker.unhealthy", data={"reason": why})
        if instance.state is _S.UNHEALTHY:
            instance.failing_probes = lost

    def hung(self, instance: Instance, why: str) -> bool:
        """It makes no progress, and is to be killed at once. Returns whether that is new, and concerns a worker that
        should be working."""
        if instance.hung is not None or instance.state not in (_S.READY, _S.UNHEALTHY, _S.DRAINING):
            return False
        instance.hung = why
        instance.slow = instance.slow or instance.state is _S.READY
        return True

    def drain(self, instance: Instance, now: float, version: tuple[int, int], balancer: bool) -> None:
        """``version`` is the backend set that will tell the balancer; without a ``balancer`` nothing runs on it."""
        instance.enter(_S.DRAINING, now, "draining")
        instance.drain_version = version
        instance.in_flight = None if balancer else 0
        self._emit(instance.id, "draining", kind="worker.draining")

    def dozes(self, instance: Instance) -> None:
        """It is about to be put to sleep."""
        instance.dozing, instance.phase = True, "falling asleep"

    def asleep(self, instance: Instance, canary: dict[str, Any], now: float, incarnation: int) -> None:
        """It sleeps; ``canary``: what it answered before."""
        if instance.state is _S.DRAINING and instance.incarnation == incarnation:
            instance.dozing, instance.phase = False, ""
            instance.enter(_S.ASLEEP, now, "")
            instance.canary = canary
            self._emit(instance.id, "asleep", kind="worker.asleep")

    def waking(self, instance: Instance, now: float) -> None:
        instance.enter(_S.STARTING, now, "")
        instance.in_flight, instance.phase = 0, "waking"
        self._emit(instance.id, "is woken", kind="worker.waking")

    def useless(self, instance: Instance, why: str, incarnation: int) -> None:
        """It could not be put to sleep, or answers otherwise than before it slept: it is to be killed at once."""
        if instance.incarnation != incarnation or instance.hung is not None:
            return
        if instance.state in (_S.STARTING, _S.DRAINING):
            instance.hung, instance.dozing = why, False
            self._emit(instance.id, why, kind="worker.altered", data={"reason": why})

    def stopping(self, instance: Instance, reason: str, now: float, failure: bool = False) -> None:
        if failure and instance.failure is None and instance.state is not _S.STOPPING:
            instance.failure = reason
            self._emit(instance.id, f"{reason}; killed", kind="worker.killed", data={"reason": reason})
        elif instance.state is not _S.STOPPING:
            self._emit(instance.id, f"stopping ({reason})", kind="worker.stopping", data={"reason": reason})
        instance.enter(_S.STOPPING, now, reason)

    def exited(
        self, instance: Instance, status: int | None, log: list[str], now: float, wall: float
    ) -> WorkerExit | None:
        """The main process is gone. Asked for or not decides; the exit code does not: a vLLM whose engine died
        ends with code 0. Returns what there is to tell of an end that nobody asked for."""
        asked = instance.state in (_S.DRAINING, _S.STOPPING) and instance.failure is None
        pid = instance.handle.pid if instance.handle else None
        instance.handle = None
        how = instance.failure or describe_exit(status)
        instance.cause = "planned" if asked else _cause(instance, status)
        instance.last_exit = {
            "at": wall, "pid": pid, "code": status if status is None or status >= 0 else None,
            "signal": -status if status is not None and status < 0 else None,
            "reason": how, "expected": asked, "log": [] if asked else log,
        }
        if asked:
            instance.enter(_S.STOPPING, now, "ending")
            return None
        served = now - instance.ready_at if instance.ready_at is not None else None
        decision = self.policy.decide(instance.history, served, self._random)
        instance.history = decision.history
        instance.restart_at = now + decision.delay
        reason = f"{how}; {decision.reason}"
        instance.enter(_S.FAILED if decision.verdict is Verdict.GIVE_UP else _S.BACKOFF, now, reason)
        instance.phase = ""
        if instance.state is _S.FAILED:
            instance.slow = False  # it is not on its way back: others may be taken out
        return WorkerExit(
            instance.id, instance.incarnation, describe_end(status, pid, instance.failure), decision.reason,
            {
                "instance": instance.id, "incarnation": instance.incarnation, "pid": pid,
                "signal": instance.last_exit["signal"], "code": instance.last_exit["code"],
                "reason": instance.failure, "restart": decision.verdict is Verdict.RESTART,
                "delay": round(decision.delay, 3), "attempt": decision.attempt, "limit": decision.limit,
            },
        )  # fmt: skip

    def postponed(self, instance: Instance, reason: str, until: float) -> None:
        """It cannot be started just now, which says nothing of the worker itself: tried again at ``until``."""
        instance.enter(_S.BACKOFF, until, reason)
        instance.restart_at, instance.phase, instance.tree_empty = until, "", True

    def tree_empty(self, instance: Instance, now: float) -> None:
        """Nothing is left of its session."""
        instance.tree_empty = True
        if instance.state is _S.STOPPING:
            instance.enter(_S.STOPPED, now, "stopped")
            self._emit(instance.id, "stopped", kind="worker.stopped")

    def in_flight(self, version: tuple[int, int], counts: Mapping[str, int]) -> None:
        """What the balancer reports as of the backend set ``version``. An older report says nothing of a drain."""
        for instance in self.instances.values():
            if instance.state is _S.DRAINING and version >= instance.drain_version:
                instance.in_flight = counts.get(instance.id, 0)
        self.intent.cordons.in_flight(version, counts)

    def balancer_lost(self) -> None:
        """Its streams died with it."""
        self.intent.cordons.balancer_lost()
        for instance in self.instances.values():
            if instance.state is _S.DRAINING:
                instance.in_flight = 0

    # what it comes to

    def ready_count(self, group: str = DEFAULT) -> int:
        """How many wanted workers of a group take new requests."""
        wanted, cordons = self.intent.group(group).instances, self.intent.cordons
        return sum(i.id in wanted and i.id not in cordons for i in self.ready_in(group))

    def observed(self) -> ObservedState:
        cordons, held = self.intent.cordons, self._held()
        return {
            i.id: i.observed(cordoned=i.id in cordons, missing_adapters=bool(_missing(i, held)))
            for i in self.instances.values()
        }

    def group_of(self, name: str) -> WorkerGroup:
        """Of the worker ``name``. Raises KeyError where there is no such group any more."""
        return self.intent.group(group_of(name))

    def ready_in(self, group: str) -> list[Instance]:
        """The ready workers of a group."""
        return [i for i in self.instances.values() if i.state is _S.READY and i.group == group]

    def missing_adapters(self, instance: Instance) -> list[str]:
        """Adapters that it refuses and another ready worker of its group holds."""
        return _missing(instance, self._held())

    def _held(self) -> Counter[tuple[str, str]]:
        """By group and adapter, how many ready workers hold it: of those that somebody refuses. Counted once for all
        workers, of which there may be a thousand, and one that nobody takes is refused by each."""
        refused = {name for i in self.instances.values() for name in i.adapters.refused}
        ready = [i for i in self.instances.values() if i.state is _S.READY] if refused else []
        return Counter((i.group, name) for i in ready for name in i.adapters.loaded.keys() & refused)


def _missing(instance: Instance, held: Counter[tuple[str, str]]) -> list[str]:
    own = instance.adapters.loaded if instance.state is _S.READY else {}
    return [name for name in instance.adapters.refused if held[instance.group, name] > (name in own)]


def _cause(instance: Instance, status: int | None) -> str:
    """Of an end that nobody asked for, in a word: ``hung``, ``unhealthy``, ``start`` (never got ready), ``signal``
    (somebody else's) or ``exit``."""
    if instance.hung is not None and not instance.canary:
        return "hung"
    if instance.failure is not None:
        return "start" if instance.ready_at is None else "unhealthy"
    return "signal" if status is not None and status < 0 else "exit"


def describe_end(status: int | None, pid: int | None, failure: str | None) -> str:
    """As `describe_exit`, of a process; ``failure``: why it was killed."""
    if failure is not None:
        return f"ended (pid {pid}; {failure})"
    if status is None:
        return f"ended (pid {pid}; adopted, so its exit status is not known)"
    if status < 0:
        return f"killed by signal {-status} (pid {pid})"
    return f"exited with code {status} (pid {pid})" + (", which nobody asked for" if status == 0 else "")


def describe_exit(status: int | None) -> str:
    """In words; ``status`` as `subprocess` counts it, None where it cannot be known."""
    if status is None:
        return "ended (adopted, so its exit status is not known)"
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = "?"
        return f"killed by signal {-status} ({name})"
    return f"exited with code {status}, which nobody asked for" if status == 0 else f"exited with code {status}"
