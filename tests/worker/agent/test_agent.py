"""Agents that are killed, cut off, taken over and forgotten, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import agents
from agents import Agents
from fakes import eventually
from worker.drivers import proc
from worker.drivers.remote import agent_home as home
from worker.drivers.remote.driver import RemoteDriver
from worker.drivers.remote.handle import RemoteHandle
from worker.spec import WorkerSpec

pytestmark = pytest.mark.processes

_WORKER = "import time; print('there', flush=True); time.sleep(600)"


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Agents]:
    """Two nodes; whatever runs there is ended after the test."""
    made = Agents(tmp_path / "agents", {"a": "127.0.0.2", "b": "127.0.0.3"})
    yield made
    made.stop_all(signal.SIGCONT)
    last = RemoteDriver(made)
    last.reserve(())
    eventually(lambda: len(last.nodes_up()) == len(made.nodes))
    last.end()
    last.close()


def _start(driver: RemoteDriver, folder: Path, name: str = "instance_0") -> RemoteHandle:
    endpoint = driver.reserve(())
    spec = WorkerSpec(
        name, 1, (sys.executable, "-S", "-c", _WORKER), {"PATH": os.environ["PATH"]}, folder, folder / f"{name}.log",
        folder / f"{name}.run", endpoint, "key",
    )  # fmt: skip
    driver.prepare(spec.run_file, {"incarnation": 1})
    handle = driver.start(spec, "its title")
    eventually(lambda: "there" in handle.logs(1))
    return handle


def _alive(handle: RemoteHandle) -> bool:
    assert handle.pid is not None
    found = proc.stat(handle.pid)
    return found is not None and found.alive


async def _end(handle: RemoteHandle, patience: float) -> int | None:
    ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    handle.watch(ended.set_result)
    return await asyncio.wait_for(ended, patience)


async def test_an_agent_that_is_killed_comes_back_and_knows_its_workers(nodes: Agents, tmp_path: Path) -> None:
    driver = RemoteDriver(nodes)
    handle = _start(driver, tmp_path)
    address = home.read(nodes.root / handle.node.name, agents.KEY)
    nodes.kill(handle.node.name)
    ended = asyncio.ensure_future(_end(handle, 15))
    assert not await asyncio.to_thread(handle.empty)  # asked of the next one, on the same socket
    assert home.read(nodes.root / handle.node.name, agents.KEY) == address
    assert _alive(handle) and not ended.done()
    assert await asyncio.to_thread(handle.destroy)
    assert await ended is None  # who could have told has been killed
    driver.close()


async def test_a_node_that_is_silent_is_lost_and_what_ran_there_is_ended_when_it_is_back(
    nodes: Agents, tmp_path: Path
) -> None:
    driver = RemoteDriver(nodes)
    handle = _start(driver, tmp_path)
    began = asyncio.get_running_loop().time()
    nodes.stop(handle.node.name)
    assert await _end(handle, 8) is None
    assert asyncio.get_running_loop().time() - began < 6
    assert handle.empty() and not handle.destroy() and _alive(handle)
    other = await asyncio.to_thread(_start, driver, tmp_path, "instance_1")
    assert other.node is not handle.node
    nodes.stop(handle.node.name, signal.SIGCONT)
    await asyncio.to_thread(eventually, lambda: handle.node.name in driver.nodes_up())
    assert not _alive(handle) and _alive(other)
    driver.close()


async def test_workers_end_when_nobody_asks_for_longer_than_their_lease(tmp_path: Path) -> None:
    nodes = Agents(tmp_path / "agents", lease=30)
    driver = RemoteDriver(nodes, lease=1.5)
    handle = _start(driver, tmp_path)
    await asyncio.sleep(2)
    assert _alive(handle)  # it is renewed
    driver.close()
    await asyncio.to_thread(eventually, lambda: not _alive(handle))
    await asyncio.to_thread(eventually, lambda: home.read(nodes.root / "a", agents.KEY) is None)


async def test_who_came_later_is_obeyed_and_the_one_before_ends_nothing(nodes: Agents, tmp_path: Path) -> None:
    first = RemoteDriver(nodes)
    handle = _start(first, tmp_path)
    second = RemoteDriver(nodes)
    spec = WorkerSpec("instance_0", 1, ("x",), {}, tmp_path, tmp_path / "log", tmp_path / "instance_0.run",
                      handle.endpoint, "key")  # fmt: skip
    found = await asyncio.to_thread(second.recover, spec, handle.identity)
    assert found is not None and not await asyncio.to_thread(found.empty)
    assert not await asyncio.to_thread(handle.destroy) and _alive(handle)
    second.reserve(())  # it is not taken for one that nobody knows of
    await asyncio.sleep(1.2)
    assert _alive(handle)
    for driver in (first, second):
        driver.close()


async def test_a_start_that_no_supervisor_knows_of_is_ended(nodes: Agents, tmp_path: Path) -> None:
    first = RemoteDriver(nodes)
    handle = _start(first, tmp_path)
    first.close()
    second = RemoteDriver(nodes)
    second.reserve(())  # it has looked for its own before
    await asyncio.to_thread(eventually, lambda: not _alive(handle))
    second.close()


async def test_agents_that_are_to_end_are_not_started_again(nodes: Agents) -> None:
    driver = RemoteDriver(nodes)
    await asyncio.to_thread(driver.reserve, ())
    await asyncio.to_thread(driver.end)
    for _ in range(15):  # whoever looks for nodes has them started, and looks each second
        assert not [name for name in nodes.nodes if home.read(nodes.root / name, agents.KEY) is not None]
        await asyncio.sleep(0.1)
    driver.close()


async def test_without_the_key_nothing_is_answered(nodes: Agents) -> None:
    driver = RemoteDriver(Agents(nodes.root, nodes.nodes, key="another"))
    nodes.agents()
    with pytest.raises(OSError, match="no node"):
        await asyncio.to_thread(driver.reserve, ())
    driver.close()
