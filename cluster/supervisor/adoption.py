"""Finds again what an earlier supervisor of this state directory started.

A process is known by its pid and start time; a worker also proves itself by answering to the key made for its
start (its first probe asks with it). After a reboot no pid means anything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster.fleet.instance import Instance, recorded_process, restore
from cluster.fleet.states import RUNNING, WorkerState
from cluster.storage.store import Store
from worker import proc
from worker import run_file as run_files
from worker.drivers.local import Handle, Launcher, read_run_file
from worker.spec import ProcessId

_S = WorkerState


def boot_id() -> str:
    """Changes with every boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


async def same_boot(store: Store) -> bool:
    return bool(await store.get("boot_id") == boot_id())


async def recorded(store: Store, runs: Path | None = None) -> dict[str, dict[str, Any]]:
    """Records by process: those of the store and, from the run files in ``runs``, those of later starts that could
    not be saved."""
    records = await store.processes()
    for path in sorted(runs.iterdir()) if runs is not None and runs.is_dir() else ():
        started = run_files.notes(path).get("record")
        if started is None or "incarnation" not in started:
            continue
        known = records.get(path.name)
        if known is None and not _alive(run_files.read(path)):
            continue  # it is done with
        if known is None or known["incarnation"] < started["incarnation"]:
            records[path.name] = started
    return records


def _alive(process: ProcessId | None) -> bool:
    return process is not None and (proc.alive(process) or bool(Handle(process).survivors()))


async def adopt_instances(
    store: Store, launcher: Launcher, now: float, runs: Path | None = None
) -> list[Instance]:
    """The recorded workers, each with a handle if it lives. One that died meanwhile keeps the state it had, with
    no handle and ``tree_empty`` false: its end is still to be dealt with and its session to be swept."""
    records = await recorded(store, runs)
    found = (restore(name, record, now) for name, record in records.items() if name.startswith("instance_"))
    instances = sorted(found, key=lambda instance: instance.number)
    for instance in instances:
        process = recorded_process(records[instance.id])
        if process is None and instance.spec is not None:
            process = read_run_file(instance.spec.run_file)  # killed between starting it and writing it down
        if process is None:
            if instance.state in RUNNING:
                instance.state, instance.spec = _S.STOPPED, None
            continue
        if instance.state not in RUNNING:
            instance.swept = Handle(process)  # its end is dealt with; what it left behind may be not
            instance.tree_empty = not instance.swept.survivors()
            continue
        instance.tree_empty = False
        instance.handle = launcher.adopt(process)
        if instance.handle is None:
            instance.handle = Handle(process)  # dead: watching it reports its end at once
        if instance.state in (_S.READY, _S.UNHEALTHY):
            # A clean record: it was serving, however long that is ago.
            instance.ready_at = now - 3600.0 if instance.state is _S.READY else now
    return instances


async def anything_alive(store: Store, runs: Path | None = None) -> bool:
    """Whether a recorded process, or anything of its session, still runs."""
    if not await same_boot(store):
        return False
    for record in (await recorded(store, runs)).values():
        process = recorded_process(record)
        if process is None:
            run_file = record.get("run_file") or (record.get("spec") or {}).get("run_file")
            process = read_run_file(Path(run_file)) if run_file else None
        if _alive(process):
            return True
    return False
