"""Once a second: for how many workers there should be room, what processes use, logs that have grown long, and whether
the disk has room again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Protocol

from cluster.fleet.instance import Instance
from cluster.monitoring.usage import UsageSampler
from worker import logfile
from worker.drivers.base import Drivers, WorkerStats
from worker.drivers.process import usage_of

_EVERY_S = 1.0


class NamedProcesses(Protocol):
    @property
    def pids(self) -> Mapping[str, int]: ...

    @property
    def logs(self) -> Collection[str]: ...


async def keep_house(
    instances: Mapping[str, Instance], others: Collection[NamedProcesses], drivers: Drivers, usage: UsageSampler,
    log: Callable[[str], Path], now: Callable[[], float], done: Callable[[], None],
) -> None:
    """Until cancelled. ``log(name)``: where that one's log is; ``done`` is called after each round."""
    while True:
        await asyncio.sleep(_EVERY_S)
        handles = [(i.driver, i.id, i.handle) for i in instances.values() if i.handle is not None]
        for name, driver in drivers.items():
            driver.expect(sum(instance.driver == name for instance in instances.values()))
        own = {"supervisor": os.getpid()}
        for processes in others:
            own |= processes.pids

        def sample(at: float) -> None:
            used: dict[str, WorkerStats] = usage_of(own)  # noqa: B023
            for name, driver in drivers.items():
                used |= driver.stats({id: handle for by, id, handle in handles if by == name})  # noqa: B023
            usage.sample(used, at)

        await asyncio.to_thread(sample, now())
        logs = [name for processes in others for name in processes.logs]
        await asyncio.to_thread(logfile.rotate_all, [log(name) for name in (*instances, *logs, "supervisor", "access")])
        done()
