"""The workers and what is wanted of them: every change of state is a method here, given the time. No I/O.

The supervisor calls these from its one task and performs what the reconciler then asks for.
"""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Mapping
from typing import Any

from cluster.events import Tell
from cluster.instance import Instance
from cluster.losses import Loss, sentence
from cluster.restart import RestartPolicy, Verdict
from cluster.state import DesiredState, InstanceDesired, WorkerState
from worker.probe import Readiness
from worker.process import Handle
from worker.spec import Slot, WorkerSpec

_S = WorkerState


def instance_name(number: int) -> str:
    return f"instance_{number}"


class Fleet:
    """``tell`` is called for everything a person may want to know, once; ``lost`` for a worker's end that nobody asked
    for (without it, that is told as well)."""

    def __init__(
        self, desired: DesiredState, policy: RestartPolicy, random: Callable[[], float],
        tell: Tell, lost: Callable[[Loss], None] | None = None,
    ) -> None:
        self.desired = desired
        self.instances: dict[str, Instance] = {}
        self.weights: dict[str, int] = {}
        self._policy = policy
        self._random = random
        self._tell = tell
        self._lost = lost or self._tell_loss

    # what is wanted

    def scale(self, count: int) -> None:
        """Wants workers 0 to ``count - 1``: the newest go first, the lowest free number comes first."""
        wanted = {n: self._wish(n) for n in map(instance_name, range(count))}
        self.desired = dataclasses.replace(self.desired, instances=wanted)

    def _wish(self, name: str) -> InstanceDesired:
        """What is wanted of ``name`` already; of one that is still on its way out, no more than it is."""
        old = self.instances.get(name)
        return self.desired.instances.get(name) or InstanceDesired(old.generation if old else 0)

    def restart(self, name: str) -> None:
        """Raises KeyError for an instance that is not wanted."""
        old = self.desired.instances[name]
        self._want(**{name: InstanceDesired(old.generation + 1, rolling=False)})

    def restart_rolling(self) -> None:
        changed = {n: InstanceDesired(i.generation + 1, rolling=True) for n, i in self.desired.instances.items()}
        self._want(**changed)

    def shut_down(self, now: bool = False) -> None:
        self.desired = dataclasses.replace(
            self.desired, shutting_down=True, kill_now=now or self.desired.kill_now
        )

    def _want(self, **changed: InstanceDesired) -> None:
        self.desired = dataclasses.replace(self.desired, instances={**self.desired.instances, **changed})

    # what happens

    def admit(self, name: str, slot: Slot, now: float) -> Instance:
        generation = self.desired.instances[name].generation
        instance = Instance(name, slot, since=now, generation=generation)
        self.instances[name] = instance
        return instance

    def starting(self, instance: Instance, spec: WorkerSpec, now: float, fresh: bool) -> None:
        """A start is under way: whatever was known of the incarnation before is void."""
        if fresh:
            instance.history = dataclasses.replace(instance.history, early=0, restarts=0)
        wanted = self.desired.instances.get(instance.id)
        instance.enter(_S.STARTING, now, "")
        instance.generation = wanted.generation if wanted else instance.generation
        instance.incarnation = spec.incarnation
        instance.spec = spec
        instance.starts += 1
        instance.ready_at = instance.started_at = None
        instance.models = ()
        instance.in_flight, instance.failing_probes, instance.failure = 0, False, None
        instance.phase = "starting the process"

    def started(self, instance: Instance, handle: Handle, wall: float) -> None:
        instance.handle = handle
        instance.started_at = wall
        instance.tree_empty = False
        port = instance.spec.port if instance.spec else None
        self._tell(
            instance.id, f"started (pid {handle.pid}, port {port or '?'})", kind="worker.started",
            data={"pid": handle.pid, "port": port, "incarnation": instance.incarnation, "starts": instance.starts},
        )

    def ready(self, instance: Instance, readiness: Readiness, now: float) -> None:
        if instance.state not in (_S.STARTING, _S.UNHEALTHY):
            return
        seconds = now - instance.since
        took = f" after {seconds:.1f} s"
        instance.enter(_S.READY, now, "")
        instance.ready_at = now if instance.ready_at is None else instance.ready_at
        instance.models = readiness.models
        instance.failing_probes, instance.phase = False, ""
        lacks = f"; refused {', '.join(instance.refused)}" if instance.refused else ""
        self._tell(
            instance.id, f"ready{took}{lacks}", kind="worker.ready",
            data={"seconds": round(seconds, 3), "incarnation": instance.incarnation},
        )

    def unhealthy(self, instance: Instance, why: str, now: float, lost: bool) -> None:
        """Probes failed often enough to take it out of rotation or, ``lost``, to give it up."""
        if instance.state is _S.READY:
            instance.enter(_S.UNHEALTHY, now, why)
            self._tell(instance.id, f"out of rotation: {why}", kind="worker.unhealthy", data={"reason": why})
        if instance.state is _S.UNHEALTHY:
            instance.failing_probes = lost

    def drain(self, instance: Instance, now: float, version: tuple[int, int], balancer: bool) -> None:
        """``version`` is the backend set that will tell the balancer; without a ``balancer`` nothing runs on it."""
        instance.enter(_S.DRAINING, now, "draining")
        instance.drain_version = version
        instance.in_flight = None if balancer else 0
        self._tell(instance.id, "draining", kind="worker.draining")

    def stopping(self, instance: Instance, reason: str, now: float, failure: bool = False) -> None:
        if failure and instance.failure is None and instance.state is not _S.STOPPING:
            instance.failure = reason
            self._tell(instance.id, f"killed: {reason}", kind="worker.killed", data={"reason": reason})
        elif instance.state is not _S.STOPPING:
            self._tell(instance.id, f"stopping ({reason})", kind="worker.stopping", data={"reason": reason})
        instance.enter(_S.STOPPING, now, reason)

    def exited(self, instance: Instance, status: int | None, log: list[str], now: float, wall: float) -> None:
        """The main process is gone. Asked for or not decides; the exit code does not: a vLLM whose engine died
        ends with code 0."""
        asked = instance.state in (_S.DRAINING, _S.STOPPING) and instance.failure is None
        pid = instance.handle.pid if instance.handle else None
        instance.handle = None
        how = instance.failure or describe_exit(status)
        instance.last_exit = {
            "at": wall, "pid": pid, "code": status if status is None or status >= 0 else None,
            "signal": -status if status is not None and status < 0 else None,
            "reason": how, "expected": asked, "log": [] if asked else log,
        }
        if asked:
            instance.enter(_S.STOPPING, now, "ending")
            return
        served = now - instance.ready_at if instance.ready_at is not None else None
        decision = self._policy.decide(instance.history, served, self._random)
        instance.history = decision.history
        instance.restart_at = now + decision.delay
        reason = f"{how}; {decision.reason}"
        instance.enter(_S.FAILED if decision.verdict is Verdict.GIVE_UP else _S.BACKOFF, now, reason)
        instance.phase = ""
        self._lost(Loss(
            instance.id, instance.incarnation, describe_end(status, pid, instance.failure), decision.reason,
            {
                "instance": instance.id, "incarnation": instance.incarnation, "pid": pid,
                "signal": instance.last_exit["signal"], "code": instance.last_exit["code"],
                "reason": instance.failure, "restart": decision.verdict is Verdict.RESTART,
                "delay": round(decision.delay, 3), "attempt": decision.attempt, "limit": decision.limit,
            },
        ))  # fmt: skip

    def _tell_loss(self, loss: Loss) -> None:
        self._tell(loss.instance, sentence(loss, None), kind="worker.exited", data=loss.data)

    def postponed(self, instance: Instance, reason: str, until: float) -> None:
        """It cannot be started just now, which says nothing of the worker itself: tried again at ``until``."""
        instance.enter(_S.BACKOFF, until, reason)
        instance.restart_at, instance.phase, instance.tree_empty = until, "", True

    def tree_empty(self, instance: Instance, now: float) -> None:
        """Nothing is left of its session."""
        instance.tree_empty = True
        if instance.state is _S.STOPPING:
            instance.enter(_S.STOPPED, now, "stopped")
            self._tell(instance.id, "stopped", kind="worker.stopped")

    def in_flight(self, version: tuple[int, int], counts: Mapping[str, int]) -> None:
        """What the balancer reports as of the backend set ``version``. An older report says nothing of a drain."""
        for instance in self.instances.values():
            if instance.state is _S.DRAINING and version >= instance.drain_version:
                instance.in_flight = counts.get(instance.id, 0)

    def balancer_lost(self) -> None:
        """Its streams died with it."""
        for instance in self.instances.values():
            if instance.state is _S.DRAINING:
                instance.in_flight = 0

    # what it comes to

    @property
    def ready_count(self) -> int:
        return sum(i.state is _S.READY for i in self.instances.values() if i.id in self.desired.instances)

    @property
    def all_failed(self) -> bool:
        wanted = [self.instances.get(n) for n in self.desired.instances]
        return bool(wanted) and all(i is not None and i.state is _S.FAILED for i in wanted)

    def durable(self) -> dict[str, Any]:
        """The wishes made at run time, for the store."""
        return {
            "instances": {n: dataclasses.asdict(i) for n, i in self.desired.instances.items()},
            "weights": dict(self.weights),
        }


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
