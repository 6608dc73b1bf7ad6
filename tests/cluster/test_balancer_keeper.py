"""Several balancer processes kept as if they were one: what is made of their reports, and that they are kept."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.balancer import BalancerKeeper, listen
from cluster.store import Store
from config.paths import StateDir
from config.topology import BackendSet, BalancerConfig
from worker import proc

Report = tuple[tuple[int, int], dict[str, int], dict[str, float]]


@dataclass
class Heard:
    """What the keeper says."""

    reports: list[Report] = field(default_factory=list)
    lost: int = 0
    told: list[tuple[str, str]] = field(default_factory=list)
    wanted: list[str] = field(default_factory=list)

    def report(self, version: tuple[int, int], counts: Mapping[str, int], used: Mapping[str, float]) -> None:
        self.reports.append((version, dict(counts), dict(used)))

    def gone(self) -> None:
        self.lost += 1


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    opened = await Store.open(tmp_path / "test.db")
    yield opened
    await opened.close()


def _keeper(folder: Path, store: Store, heard: Heard, processes: int = 3) -> BalancerKeeper:
    state = StateDir(folder / "state")
    state.create()
    config = BalancerConfig(-1, str(state.root), "127.0.0.1", 1, 5, processes=processes)
    return BalancerKeeper(
        state, config, store, heard.report, heard.gone, lambda who, what, **_: heard.told.append((who, what)),
        heard.wanted.append,
    )


def _report(keeper: BalancerKeeper, number: int, version: tuple[int, int], **in_flight: int) -> None:
    """What `BalancerProcess._talk` does with one."""
    process = keeper.processes[number]
    process.engaged, process.version, process.in_flight = True, version, in_flight
    keeper.heard(process, {"type": "report", "used": {"poet": float(number)}})


def _die(keeper: BalancerKeeper, number: int) -> None:
    process = keeper.processes[number]
    process.engaged, process.version, process.in_flight = False, (0, 0), {}
    keeper.lost(process)


def test_names_of_the_first_are_those_of_a_balancer_that_is_alone(tmp_path: Path, store: Store) -> None:
    keeper = _keeper(tmp_path, store, Heard())
    assert [process.name for process in keeper.processes] == ["balancer", "balancer-1", "balancer-2"]


def test_confirmed_is_what_the_slowest_has_and_in_flight_is_the_sum(tmp_path: Path, store: Store) -> None:
    heard = Heard()
    keeper = _keeper(tmp_path, store, heard)
    assert not keeper.connected
    _report(keeper, 0, (1, 7), instance_0=2, instance_1=1)
    assert keeper.connected
    _report(keeper, 1, (1, 5), instance_0=3)
    _report(keeper, 1, (1, 7), instance_0=1)
    assert heard.reports == [
        ((1, 7), {"instance_0": 2, "instance_1": 1}, {"poet": 0.0}),
        ((1, 5), {"instance_0": 5, "instance_1": 1}, {"poet": 1.0}),
        ((1, 7), {"instance_0": 3, "instance_1": 1}, {"poet": 1.0}),
    ]


def test_one_that_was_adopted_and_has_said_nothing_has_confirmed_nothing(tmp_path: Path, store: Store) -> None:
    heard = Heard()
    keeper = _keeper(tmp_path, store, heard)
    keeper.processes[1].engaged = True
    _report(keeper, 0, (2, 1))
    assert heard.reports[-1][0] == (0, 0)


def test_when_one_dies_only_its_own_requests_are_over(tmp_path: Path, store: Store) -> None:
    heard = Heard()
    keeper = _keeper(tmp_path, store, heard)
    _report(keeper, 0, (1, 2), instance_0=2)
    _report(keeper, 1, (1, 1), instance_0=5)
    _die(keeper, 1)
    assert (heard.reports[-1], heard.lost) == (((1, 2), {"instance_0": 2}, {}), 0)
    _die(keeper, 0)
    assert (len(heard.reports), heard.lost) == (3, 1)


def test_each_may_want_an_adapter(tmp_path: Path, store: Store) -> None:
    heard = Heard()
    keeper = _keeper(tmp_path, store, heard)
    for process in keeper.processes:
        keeper.heard(process, {"type": "want", "adapter": process.name})
    keeper.heard(keeper.processes[0], {"type": "hello", "pid": 1})
    assert heard.wanted == ["balancer", "balancer-1", "balancer-2"]


# real processes


async def _until(condition: Callable[[], Any], what: str, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.02)


def _confirmed(heard: Heard, version: tuple[int, int]) -> bool:
    return bool(heard.reports) and heard.reports[-1][0] == version


async def test_they_share_the_socket_are_replaced_adopted_and_ended(tmp_path: Path, store: Store) -> None:
    async with AsyncExitStack() as exits:
        heard = Heard()
        keeper = _keeper(tmp_path, store, heard, processes=2)
        root = tmp_path / "state"
        (root / "lb-900.sock").touch()  # of a cluster that was killed
        keeper.listener = listen("127.0.0.1", 0)
        port = keeper.listener.getsockname()[1]
        keeper.publish(BackendSet(epoch=1, revision=1, strategy="random"), {"sequence": [1, 1]})
        keeper.start()
        exits.push_async_callback(keeper.stop, 5.0)
        await _until(lambda: all(p.engaged for p in keeper.processes) and _confirmed(heard, (1, 1)), "both are told")
        first, second = keeper.processes
        links = {p.link for p in keeper.processes}
        assert {path.name for path in root.glob("lb-*.sock")} == {link.name for link in links if link}
        assert sorted(path.name for path in root.glob("counters*")) == ["counters-1.bin", "counters.bin"]

        kept, victim, link = first.pid, second.pid, second.link
        assert victim is not None and link is not None
        os.kill(victim, signal.SIGKILL)
        await _until(lambda: second.pid not in (None, victim) and second.engaged, "it is replaced")
        assert (first.pid, keeper.restarts, heard.lost) == (kept, 1, 0)
        assert heard.told[0][0] == "balancer-1" and "killed by signal 9" in heard.told[0][1]
        assert first.link is not None and first.link.exists() and not link.exists()
        keeper.publish(BackendSet(epoch=1, revision=2, strategy="random"))
        await _until(lambda: _confirmed(heard, (1, 2)), "the new one has it too")
        assert len(list(root.glob("counters*"))) == 2

        await keeper.close()
        pids = [p.pid for p in keeper.processes]
        assert keeper.listener is not None
        keeper.listener.close()
        os.kill(pids[0] or 0, signal.SIGKILL)  # nobody looks
        await _until(lambda: proc.stat(pids[0] or 0) is None or not proc.stat(pids[0] or 0).alive, "it is gone")

        heard = Heard()
        keeper = _keeper(tmp_path, store, heard, processes=2)
        assert await keeper.adopt()
        exits.push_async_callback(keeper.stop, 5.0)
        assert isinstance(keeper.listener, socket.socket) and keeper.listener.getsockname()[1] == port
        assert [p.pid for p in keeper.processes] == [None, pids[1]]
        keeper.publish(BackendSet(epoch=2, revision=1, strategy="random"), {"sequence": [2, 1]})
        keeper.start()
        await _until(lambda: keeper.processes[0].engaged and _confirmed(heard, (2, 1)), "one adopted, one new")
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"http://127.0.0.1:{port}/health")).status_code == 503  # no worker

        pids = [p.pid for p in keeper.processes]
        await keeper.stop(5.0)
        assert not [p for p in proc.processes() if p.pid in pids and p.alive]
        assert await store.processes() == {}
        assert list(root.glob("lb-*")) == []


async def test_none_is_adopted_where_none_runs(tmp_path: Path, store: Store) -> None:
    keeper = _keeper(tmp_path, store, Heard())
    await store.save_process("balancer-1", {"process": None, "link": "x", "run_file": "x"})
    assert await keeper.adopt() is False
    await keeper.stop(1.0)
