"""What is reported late must not be taken for news of the next incarnation."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

from cluster.fleet import Fleet
from cluster.instance import Instance
from cluster.restart import Backoff, RestartPolicy
from cluster.state import DesiredState, WorkerState
from cluster.watchers import Watchers
from fakes import FakeHandle, rng, soon
from worker.spec import ProcessId, Slot


async def test_a_sweep_says_nothing_of_a_worker_that_was_started_since() -> None:
    fleet = Fleet(DesiredState(), RestartPolicy(Backoff()), rng().random, lambda name, text: None)
    events: list[Callable[[], None]] = []
    watchers = Watchers(SimpleNamespace(fleet=fleet, post=events.append, now=lambda: 0.0))  # type: ignore[arg-type]
    old, new = FakeHandle(ProcessId(100, 1)), FakeHandle(ProcessId(200, 1))
    old.alive = False
    instance = Instance("instance_0", Slot(), state=WorkerState.BACKOFF, tree_empty=False, swept=old, last_exit={})

    watchers.sweep(instance)
    await soon(lambda: events)
    watchers.sweep(instance)  # asked for again before the end of the first is known: nothing is begun
    assert watchers._sweeping == {"instance_0"}
    instance.handle = new
    events.pop()()
    assert (instance.tree_empty, watchers._sweeping) == (False, set())

    instance.handle = None
    watchers.sweep(instance)
    await soon(lambda: events)
    events.pop()()
    assert instance.tree_empty
    await watchers.close()
