"""Finds again what an earlier supervisor of this state directory started.

A worker is known by what its driver wrote down; it also proves itself by answering to the key made for its
start (its first probe asks with it). After a reboot nothing of that means anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.fleet.instance import Instance, restore, restored_spec
from cluster.fleet.states import RUNNING, WorkerState
from cluster.storage.store import Store
from worker.drivers.base import Driver
from worker.drivers.process import find

_S = WorkerState


async def same_boot(store: Store, driver: Driver) -> bool:
    return bool(await store.get("boot_id") == driver.boot())


async def recorded(store: Store, driver: Driver, runs: Path | None = None) -> dict[str, dict[str, Any]]:
    """Records by process: those of the store and, from the run files in ``runs``, those of later starts that could
    not be saved."""
    records = await store.processes()
    for path in sorted(runs.iterdir()) if runs is not None and runs.is_dir() else ():
        started = driver.prepared(path)
        if started is None or "incarnation" not in started:
            continue
        known = records.get(path.name)
        if known is None and not _alive(driver, path.name, {**started, "process": None}):
            continue  # it is done with
        if known is None or known["incarnation"] < started["incarnation"]:
            records[path.name] = started
    return records


def _alive(driver: Driver, name: str, record: dict[str, Any]) -> bool:
    """Whether anything of a process, a balancer or a worker, still runs."""
    if "run_file" in record:
        balancer = find(record["process"], Path(record["run_file"]))
        return balancer is not None and not balancer.empty()
    spec = restored_spec(name, record)
    worker = driver.recover(spec, record["process"]) if spec is not None else None
    return worker is not None and not worker.empty()


async def adopt_instances(
    store: Store, driver: Driver, now: float, runs: Path | None = None
) -> list[Instance]:
    """The recorded workers, each with a handle. That of one that died meanwhile reports its end as soon as it is
    watched, with the state it had and ``tree_empty`` false: its session is to be swept."""
    records = await recorded(store, driver, runs)
    found = (restore(name, record, now) for name, record in records.items() if name.startswith("instance_"))
    instances = sorted(found, key=lambda instance: instance.number)
    for instance in instances:
        handle = driver.recover(instance.spec, records[instance.id]["process"]) if instance.spec is not None else None
        if handle is None:
            if instance.state in RUNNING:
                instance.state, instance.spec = _S.STOPPED, None
            continue
        if instance.state not in RUNNING:
            instance.swept = handle  # its end is dealt with; what it left behind may be not
            instance.tree_empty = handle.empty()
            continue
        instance.tree_empty = False
        instance.handle = handle
        if instance.state in (_S.READY, _S.UNHEALTHY):
            # A clean record: it was serving, however long that is ago.
            instance.ready_at = now - 3600.0 if instance.state is _S.READY else now
    return instances


async def anything_alive(store: Store, driver: Driver, runs: Path | None = None) -> bool:
    """Whether a recorded process, or anything of its session, still runs."""
    if not await same_boot(store, driver):
        return False
    records = await recorded(store, driver, runs)
    return any(_alive(driver, name, record) for name, record in records.items())
