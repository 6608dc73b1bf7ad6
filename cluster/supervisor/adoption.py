"""Finds again what an earlier supervisor of this state directory started.

A worker is known by what its driver wrote down; it also proves itself by answering to the key made for its
start (its first probe asks with it). After a reboot nothing of that means anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.fleet.groups import is_worker
from cluster.fleet.instance import Instance, restore, restored_spec
from cluster.fleet.states import RUNNING, WorkerState
from cluster.storage.store import Store
from config.paths import process_of
from worker.drivers.base import LOCAL, Drivers, Handle
from worker.drivers.process import find
from worker.spec import WorkerSpec

_S = WorkerState


def boots(drivers: Drivers) -> dict[str, str]:
    """What `same_boot` compares with, for the store: a value a driver."""
    return {_boot_key(name): driver.boot() for name, driver in drivers.items()}


async def same_boot(store: Store, drivers: Drivers) -> Drivers:
    """The drivers whose workers may still run."""
    return {name: one for name, one in drivers.items() if await store.get(_boot_key(name)) == one.boot()}


def _boot_key(driver: str) -> str:
    return "boot_id" if driver == LOCAL else f"boot_id.{driver}"


async def recorded(store: Store, drivers: Drivers, runs: Path | None = None) -> dict[str, dict[str, Any]]:
    """Records by process: those of the store and, from the run files in ``runs``, those of later starts that could
    not be saved."""
    records = await store.processes()
    for path in sorted(runs.iterdir()) if runs is not None and runs.is_dir() else ():
        started = next(filter(None, (driver.prepared(path) for driver in drivers.values())), None)
        if started is None or "incarnation" not in started:
            continue
        name = process_of(path.name)
        known = records.get(name)
        if known is None and not _alive(drivers, name, {**started, "process": None}):
            continue  # it is done with
        if known is None or known["incarnation"] < started["incarnation"]:
            records[name] = started
    return records


def _alive(drivers: Drivers, name: str, record: dict[str, Any]) -> bool:
    """Whether anything of a process, a balancer or a worker, still runs."""
    if "run_file" in record:
        balancer = find(record["process"], Path(record["run_file"]))
        return balancer is not None and not balancer.empty()
    worker = _recover(drivers, restored_spec(name, record), record)
    return worker is not None and not worker.empty()


def _recover(drivers: Drivers, spec: WorkerSpec | None, record: dict[str, Any]) -> Handle | None:
    """By the driver that it was started by, if that is there."""
    driver = drivers.get(record.get("driver", LOCAL))
    return driver.recover(spec, record["process"]) if driver is not None and spec is not None else None


async def adopt_instances(
    store: Store, drivers: Drivers, now: float, runs: Path | None = None
) -> list[Instance]:
    """The recorded workers, each with a handle. That of one that died meanwhile reports its end as soon as it is
    watched, with the state it had and ``tree_empty`` false: its session is to be swept."""
    records = await recorded(store, drivers, runs)
    found = (restore(name, record, now) for name, record in records.items() if is_worker(name))
    instances = sorted(found, key=lambda instance: (instance.group, instance.number))
    for instance in instances:
        handle = _recover(drivers, instance.spec, records[instance.id])
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


async def anything_alive(store: Store, drivers: Drivers, runs: Path | None = None) -> bool:
    """Whether a recorded process, or anything of its session, still runs."""
    drivers = await same_boot(store, drivers)
    if not drivers:
        return False
    records = await recorded(store, drivers, runs)
    return any(_alive(drivers, name, record) for name, record in records.items())
