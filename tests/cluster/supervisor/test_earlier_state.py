"""The state directory of a cluster of commit 7380e8d (two simulated workers, one balancer) is read and its workers are
adopted. ``earlier/`` has it as text: the state file as SQL, the run files, and names for what differs by machine."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cluster.fleet.states import WorkerState
from cluster.storage.store import Store
from cluster.supervisor import adoption
from config.disk import private
from config.paths import StateDir
from config.settings import from_json
from fakes import Processes, eventually
from worker.drivers import available
from worker.drivers.base import LOCAL
from worker.drivers.process import Process
from worker.drivers.run_file import read
from worker.spec import WorkerEndpoint

EARLIER = Path(__file__).with_name("earlier")
NOTES_AT = 1024


@dataclass
class Left:
    """What the supervisor of then left behind: its state, and workers that live."""

    state: StateDir
    store: Store
    workers: list[Process]

    def records(self) -> dict[str, dict[str, Any]]:
        db = sqlite3.connect(self.state.database)
        try:
            return {name: json.loads(record) for name, record in db.execute("SELECT id, record FROM processes")}
        finally:
            db.close()


@pytest.fixture
async def left(tmp_path: Path, processes: Processes) -> AsyncIterator[Left]:
    state = StateDir(tmp_path / "state")
    state.create()
    boot = available()[LOCAL].boot()
    names = {"@STATE@": str(state.root), "@PYTHON@": sys.executable, "@DEMO@": "demo", "@BOOT@": boot}
    workers = []
    for who in ("0", "1", "LB", "STANDBY"):
        started = processes.shell("exec sleep 600", who)
        await asyncio.to_thread(eventually, lambda who=who: read(processes.run_file(who)))  # type: ignore[misc]
        names |= {f"@PID_{who}@": str(started.pid), f"@TICKS_{who}@": str(started.process.start_ticks)}
        workers.append(started)

    def filled(file: Path) -> str:
        text = file.read_text()
        for name, value in names.items():
            text = text.replace(name, value)
        return text

    for file in (EARLIER / "run").iterdir():
        stat, notes = filled(file).split("\n", 1)
        with private.open_file(state.runs / file.name, "wb") as target:
            target.write(f"{stat}\n".encode().ljust(NOTES_AT) + notes.encode().ljust(16384 - NOTES_AT))
    with private.open_file(state.database, "wb"):
        pass
    db = sqlite3.connect(state.database)
    db.executescript(filled(EARLIER / "state.sql") + "PRAGMA user_version = 2;")
    db.close()
    store = await Store.open(state.database)
    yield Left(state, store, workers[:2])
    await store.close()


async def test_its_workers_are_adopted_as_they_were(left: Left) -> None:
    written = left.records()
    found = await adoption.adopt_instances(left.store, available(), 50_000.0, left.state.runs)
    assert [(i.id, i.state, i.incarnation) for i in found] == [
        ("instance_0", WorkerState.READY, 1), ("instance_1", WorkerState.READY, 2),
    ]  # fmt: skip
    assert [i.endpoint for i in found] == [WorkerEndpoint(30_895), WorkerEndpoint(25_708)]
    for instance, worker in zip(found, left.workers, strict=True):
        assert instance.handle is not None and instance.handle.pid == worker.pid and not instance.handle.empty()
        assert set(instance.adapters.loaded) == {"pirate", "poet"}
        again = json.loads(json.dumps(instance.record()))
        assert again.pop("spec") == {**written[instance.id].pop("spec"), "host": "127.0.0.1", "tls": False}
        assert again == written[instance.id]


async def test_those_that_could_not_be_saved_are_found_by_their_run_files(left: Left) -> None:
    await left.store.save(dict.fromkeys(left.records()), [], 10)
    found = await adoption.adopt_instances(left.store, available(), 50_000.0, left.state.runs)
    assert [(i.id, i.state, i.endpoint and i.endpoint.port) for i in found] == [
        ("instance_0", WorkerState.STARTING, 30_895), ("instance_1", WorkerState.STARTING, 25_708),
    ]  # fmt: skip
    assert [i.handle and i.handle.pid for i in found] == [worker.pid for worker in left.workers]


async def test_what_was_wanted_and_what_adapters_there_were_is_still_known(left: Left) -> None:
    assert await adoption.anything_alive(left.store, available(), left.state.runs)
    assert from_json(await left.store.get("settings")).instances == 2
    kept = await left.store.get("desired")
    assert list(kept["instances"]) == ["instance_0", "instance_1"] and kept["weights"] == {"instance_0": 3}
    assert await left.store.get("strategy") == "round_robin"
    adapters = (await left.store.registry()).adapters
    assert {name: adapter.current.rank for name, adapter in adapters.items()} == {"pirate": 8, "poet": 8}
