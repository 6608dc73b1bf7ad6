"""A standby takes the place of a balancer process that dies."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest

from balancergroups import Heard, group_of, pid_of, serving
from cluster.balancers.group import BalancerGroup
from cluster.balancers.listener import listen
from cluster.balancers.standby import Standby, end_left
from cluster.storage.store import Store
from config.paths import StateDir
from config.topology import BackendSet
from fakes import soon
from worker.drivers import proc
from worker.drivers.process import spawn

pytestmark = pytest.mark.processes


async def test_a_standby_takes_the_place_of_one_that_dies(tmp_path: Path, store: Store) -> None:
    async with AsyncExitStack() as exits:
        heard = Heard()
        keeper = group_of(tmp_path, store, heard, processes=1, standby=True)
        keeper.starter.listeners.http = listen("127.0.0.1", 0)
        keeper.feed.publish(BackendSet(epoch=1, revision=1, strategy="random").to_json(), {"sequence": [1, 1]})
        keeper.start()
        exits.push_async_callback(keeper.stop, 5.0)
        await soon(lambda: keeper.starter.standby.pid, "there is one")
        standby = keeper.starter.standby.pid
        os.kill(pid_of(keeper, 0) or 0, signal.SIGKILL)
        await soon(lambda: pid_of(keeper, 0) == standby, "it is the balancer now")
        await serving(keeper, 1)
        await soon(lambda: keeper.starter.standby.pid not in (None, standby), "there is another")
        assert len(await store.processes()) == 2
        await keeper.replacements.replace()
        assert pid_of(keeper, 0) != standby  # replaced by one that has imported what is installed now
        keeper.starter.keeps_standby = False
        keeper.starter.look()
        await soon(lambda: len(keeper.pids) == 1, "none is kept any more")
        keeper.starter.keeps_standby = True
        keeper.starter.look()
        await soon(lambda: keeper.starter.standby.pid, "there is one again")
        await keeper.stop(5.0)
        assert await store.processes() == {}
        assert list((tmp_path / "state" / "run").iterdir()) == []


class Told:
    """A machine that has joined."""

    def __init__(self) -> None:
        self.heard: list[Mapping[str, Any]] = []

    def tell(self, message: Mapping[str, Any]) -> None:
        self.heard.append(message)


async def test_machines_that_have_joined_are_told_by_what_balancers_are_kept(tmp_path: Path, store: Store) -> None:
    keeper, machine = group_of(tmp_path, store, Heard(), standby=True), Told()
    keeper.feed.joined.append(machine)  # type: ignore[arg-type]
    keeper.drain_within(7.0)
    config = keeper.config.to_json()
    assert machine.heard == [{"type": "config", "config": config, "drain_timeout": 7.0, "standby": True}]
    assert keeper.drain_timeout == 7.0


async def _killed(keeper: BalancerGroup, victims: list[int | None]) -> None:
    """Returns when the keeper knows."""
    for victim in victims:
        os.kill(victim or 0, signal.SIGKILL)
    known = {*victims}
    standby = keeper.starter.standby
    await soon(
        lambda: not known & {pid_of(keeper, 0), pid_of(keeper, 1), standby.pid}, f"the end of {victims} is noticed"
    )


async def _answers(port: int) -> None:
    async with httpx.AsyncClient(timeout=20) as client:
        await client.get(f"http://127.0.0.1:{port}/health")


async def test_killed_again_and_again_it_is_always_back_at_once(tmp_path: Path, store: Store) -> None:
    """Faster than a standby gets ready, together with the standby, and the standby alone: nobody is ever made to wait
    for more than the start of a process."""
    async with AsyncExitStack() as exits:
        heard = Heard()
        keeper = group_of(tmp_path, store, heard, processes=2, standby=True)
        keeper.starter.listeners.http = listen("127.0.0.1", 0)
        port = keeper.starter.listeners.http.getsockname()[1]
        keeper.feed.publish(BackendSet(epoch=1, revision=1, strategy="random").to_json(), {"sequence": [1, 1]})
        keeper.start()
        exits.push_async_callback(keeper.stop, 5.0)
        await serving(keeper, 2)
        for _ in range(4):
            await _killed(keeper, [pid_of(keeper, 0), pid_of(keeper, 1)])
            await serving(keeper, 2)
        assert {said.split("; ")[1] for who, said in heard.told if "ended" in said} == {"restart at once"}

        await soon(lambda: keeper.starter.standby.pid, "there is a standby")
        await _killed(keeper, [keeper.starter.standby.pid])
        await soon(lambda: keeper.starter.standby.pid, "and another when it is killed")
        spare = keeper.starter.standby.pid
        await _killed(keeper, [pid_of(keeper, 0), pid_of(keeper, 1), spare])
        await _answers(port)
        await serving(keeper, 2)
        await soon(lambda: keeper.starter.standby.pid, "there is a standby again")
        # A standby that is dying already may be given a place: it looks alive for a moment. Its end is one more then.
        ended = [said for who, said in heard.told if who != "standby" and "signal" in said]
        assert {said.split("; ")[1] for said in ended} == {"restart at once"}
        given_a_place = any(said.startswith(f"pid {spare} ended") for said in ended)
        assert keeper.describe()["restarts"] == len(ended) == 10 + given_a_place, "\n".join(map(str, heard.told))


async def test_a_standby_waits_for_none_but_a_balancer_that_is_being_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it is started, by a clock that each rest moves on; what becomes of each is played."""
    busy, rests, lives = False, [], []  # type: ignore[var-annotated]
    standby = Standby(StateDir(tmp_path), None, tuple, lambda: busy, lambda *_, **__: None, lambda: None)  # type: ignore[arg-type]
    ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()

    async def one() -> str | None:
        nonlocal ended
        lives.append(len(lives))
        ended = asyncio.get_running_loop().create_future()
        return await ended

    async def sleep(seconds: float) -> None:
        rests.append(seconds)
        await real(0)

    real = asyncio.sleep
    monkeypatch.setattr(standby, "_one", one)
    monkeypatch.setattr("cluster.balancers.standby.asyncio.sleep", sleep)

    async def reached(count: int) -> None:
        for _ in range(50):
            await real(0)
        assert len(lives) == count

    standby.start()
    await reached(1)
    assert rests == [1.0]  # what starts with the cluster comes first
    ended.set_result(None)  # taken
    busy = True
    await reached(1)
    busy = False
    standby.look()
    await reached(2)
    assert rests == [1.0, 0.0]
    for count in range(3, 7):
        ended.set_result("killed")
        await reached(count)
    assert rests[2:] == [0.0, 1.0, 2.0, 4.0]  # the first at once
    standby.failures = 0  # one has come to serve
    ended.set_result(None)
    await reached(7)
    assert rests[-1] == 0.0
    standby.failures = 3  # three who took a place have died before they served
    ended.set_result(None)
    await reached(8)
    assert rests[-1] == 2.0
    await standby.close()


async def test_a_full_disk_does_not_keep_a_standby_from_its_place(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncExitStack() as exits:
        heard = Heard()
        keeper = group_of(tmp_path, store, heard, processes=1, standby=True)
        keeper.starter.listeners.http = listen("127.0.0.1", 0)
        keeper.feed.publish(BackendSet(epoch=1, revision=1, strategy="random").to_json(), {"sequence": [1, 1]})
        keeper.start()
        exits.push_async_callback(keeper.stop, 5.0)
        await soon(lambda: keeper.starter.standby.pid, "there is one")
        standby = keeper.starter.standby.pid

        async def full(*_: Any) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        with monkeypatch.context() as patched:
            patched.setattr(Store, "save_process", full)
            patched.setattr(Store, "next_number", full)
            os.kill(pid_of(keeper, 0) or 0, signal.SIGKILL)
            await soon(lambda: pid_of(keeper, 0) == standby, "it is the balancer now")
            await serving(keeper, 1)
        name = keeper.processes[0].name
        for _ in range(1000):  # and it is written down when there is room again
            if "link" in (await store.processes())[name]:
                break
            await asyncio.sleep(0.02)
        assert (await store.processes())[name]["slot"] == "balancer"


async def test_a_standby_of_a_dead_supervisor_is_ended_and_counts_for_nothing(tmp_path: Path, store: Store) -> None:
    keeper = group_of(tmp_path, store, Heard(), processes=1)
    process = spawn(
        ("sleep", "600"), env=dict(os.environ), cwd=tmp_path, log=tmp_path / "log", run_file=tmp_path / "run",
    )  # fmt: skip
    record = {"standby": True, "process": asdict(process.process), "run_file": str(tmp_path / "run")}
    await store.save_process("lb-3", record)
    assert await keeper.adopt() is False
    await end_left(StateDir(tmp_path / "state"), store)
    assert await store.processes() == {}
    assert not proc.alive(process.process)
