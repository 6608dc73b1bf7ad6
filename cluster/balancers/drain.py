"""The end of all balancer processes of a machine that lets requests finish: nobody takes their place."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from cluster.balancers.feed import Feed
from cluster.balancers.group import BalancerGroup, GroupObserver
from cluster.balancers.process import BalancerProcess
from cluster.events import Emit
from cluster.storage.store import Records
from config.link import Phase
from config.paths import StateDir
from config.topology import BalancerConfig

_LOOK_S = 0.05

#: How long (s) they may take to end once they are asked to.
GRACE_S = 5.0

#: How long (s) one may take to say that it takes no more connections.
_RETIRED_S = 5.0


async def drain(group: BalancerGroup, timeout: float, hurry: asyncio.Event) -> None:
    """Takes no more connections: who comes from now on is refused. Returns when all that was in flight is over, after
    ``timeout`` seconds, or as soon as ``hurry`` is set; `BalancerGroup.stop` is left to do."""
    await group.replacements.close()
    await asyncio.gather(group.starter.standby.stop(), *(slot.close() for slot in group.slots))
    for process in group.processes:
        await process.retire(timeout, None)
        process.asked = True  # its end is no loss
    await _until(lambda: hurry.is_set() or all(map(_takes_none, group.processes)), min(timeout, _RETIRED_S))
    group.starter.listeners.refuse()
    await _until(lambda: hurry.is_set() or all(map(_is_idle, group.processes)), timeout)


async def end_adopted(
    state: StateDir, store: Records, observer: GroupObserver, emit: Emit, timeout: float, hurry: asyncio.Event
) -> None:
    """Ends those that a process which is gone left running, as `drain`."""
    group = BalancerGroup(state, BalancerConfig(-1, str(state.root), "", 0, 0.0), store, observer, emit, Feed())
    await group.adopt()
    for process in group.processes:
        process.follow()
    await drain(group, timeout, hurry)
    await group.stop(GRACE_S)


async def _until(condition: Callable[[], bool], timeout: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            while not condition():
                await asyncio.sleep(_LOOK_S)


def _takes_none(process: BalancerProcess) -> bool:
    return process.over or process.phase is Phase.DRAINING


def _is_idle(process: BalancerProcess) -> bool:
    """It has said what is in flight just before it said that it takes no more."""
    return process.over or (_takes_none(process) and not process.requests and not process.queued)
