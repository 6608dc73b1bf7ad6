"""What `worker.drivers.base` says of every driver. A new one adds a `Case` here."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import kubestub
import zygotes
from agents import Agents
from fakedriver import FakeDriver, FakeHandle
from fakes import eventually, rng
from worker.adapters.content import content_hash
from worker.adapters.store import take_in
from worker.demo import adapter_path
from worker.drivers.base import Driver, Handle
from worker.drivers.forked import ForkFailed
from worker.drivers.kubernetes.directory import KubernetesDirectory
from worker.drivers.kubernetes.driver import KubernetesDriver
from worker.drivers.local import LocalDriver
from worker.drivers.remote.driver import RemoteDriver
from worker.spec import WorkerEndpoint, WorkerSpec

#: Has a child of its own, says that it is there, ends with 3 when it is asked to.
_WORKER = """
import os, signal, sys, time
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
signal.signal(signal.SIGTERM, lambda *_: os._exit(3))
print("there", flush=True)
time.sleep(600)
"""


def _fake(folder: Path) -> FakeDriver:
    """Its workers behave as `_WORKER` does."""
    driver = FakeDriver()

    def started(spec: WorkerSpec, handle: FakeHandle) -> None:
        handle.orphans = 1
        handle.written.append("there")
        handle.on_stop = lambda: handle.die(3, orphans=1)

    driver.on_start = started
    return driver


@dataclass(frozen=True)
class Case:
    """``successor``: the driver of a supervisor that comes after the one that used the first. ``forks``: its workers
    come from a zygote. ``pods``: it needs some, and is given where they are instead of a folder."""

    make: Callable[[Path], Driver]
    successor: Callable[[Driver], Driver]
    forks: bool = False
    pods: bool = False


def _only_forks(folder: Path) -> LocalDriver:
    """A start that would be plain fails."""
    driver = LocalDriver(rng())

    def failed(zygote: Path, error: ForkFailed) -> None:
        raise AssertionError(f"{zygote}: {error}")

    driver.on_failed_fork = failed
    return driver


def _remote(folder: Path) -> RemoteDriver:
    return _heard(RemoteDriver(Agents(folder / "agents"), adapters=folder / "store"))


def _after(first: Driver) -> RemoteDriver:
    assert isinstance(first, RemoteDriver) and isinstance(first.directory, Agents)
    return _heard(RemoteDriver(first.directory, adapters=first.directory.root.with_name("store")))


def _heard(driver: RemoteDriver) -> RemoteDriver:
    """Once its agent answers: on a busy machine that takes longer than a start waits for it."""
    eventually(driver.nodes_up, 30)
    return driver


#: Of the pods for one test at a time.
_PODS = 5


def _in_pods(folder: Path) -> KubernetesDriver:
    driver = KubernetesDriver(KubernetesDirectory(kubestub.NAME, kubestub.KEY), scales=False)
    eventually(lambda: len(driver.nodes_up()) == _PODS, 20)
    return driver


CASES = {
    "remote": Case(_remote, _after),
    "local": Case(lambda folder: LocalDriver(rng()), lambda first: LocalDriver()),
    "forked": Case(_only_forks, lambda first: LocalDriver(), forks=True),
    "kubernetes": Case(_in_pods, lambda first: _in_pods(Path()), pods=True),
    "fake": Case(_fake, lambda first: first),
}


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with zygotes.running(tmp_path_factory.mktemp("zygote")) as (_, path):
        yield path


@pytest.fixture(scope="module")
def pods(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kubestub.Kubernetes]:
    with kubestub.running(tmp_path_factory.mktemp("kubernetes"), _PODS) as made:
        made.wait_pods(_PODS)
        yield made


class Site:
    """One driver, and where its workers write."""

    def __init__(self, case: Case, folder: Path, zygote: Path) -> None:
        self.driver, self._case, self._folder = case.make(folder), case, folder
        self._zygote = zygote if case.forks else None
        self._handles: list[Handle] = []
        self._successors: list[Driver] = []

    def spec(self, name: str = "instance_0") -> WorkerSpec:
        return WorkerSpec(
            name, 1, (sys.executable, "-S", "-c", _WORKER), {"PATH": os.environ["PATH"]}, self._folder,
            self._folder / f"{name}.log", self._folder / f"{name}.run", self.driver.reserve(()), "key",
            zygote=self._zygote,
        )

    async def start(self, spec: WorkerSpec | None = None) -> Handle:
        spec = spec or self.spec()
        self.driver.prepare(spec.run_file, {"incarnation": 1})
        handle = self.driver.start(spec, "its title")
        self._handles.append(handle)
        await asyncio.to_thread(eventually, lambda: "there" in handle.logs(1))
        return handle

    def successor(self) -> Driver:
        self._successors.append(self._case.successor(self.driver))
        return self._successors[-1]

    def end(self) -> None:
        for handle in self._handles:
            eventually(lambda h=handle: not h.destroy())  # type: ignore[misc]
        drivers = [self.driver, *self._successors]
        drivers[-1].end()
        for driver in drivers:
            driver.close()


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.processes] * (name != "fake")) for name in CASES])
def site(
    request: pytest.FixtureRequest, tmp_path: Path, zygote: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    if CASES[request.param].pods:
        monkeypatch.setenv("KUBECONFIG", str(request.getfixturevalue("pods").config))
    made = Site(CASES[request.param], tmp_path, zygote)
    yield made
    made.end()


async def _end(handle: Handle) -> int | None:
    ended: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
    handle.watch(ended.set_result)
    return await asyncio.wait_for(ended, 60)


async def test_it_runs_where_it_was_told_to_and_is_asked_to_end(site: Site) -> None:
    spec = site.spec()
    handle = await site.start(spec)
    assert handle.endpoint == spec.endpoint and not handle.empty()
    ended = asyncio.ensure_future(_end(handle))
    await asyncio.sleep(0)
    assert not ended.done()
    handle.stop()
    assert await ended == 3
    handle.stop()  # of no effect


async def test_what_it_leaves_behind_is_destroyed(site: Site) -> None:
    handle = await site.start()
    handle.stop()
    await _end(handle)
    assert not handle.empty()
    assert handle.destroy()
    await asyncio.to_thread(eventually, lambda: not handle.destroy())
    assert handle.empty()


async def test_destroyed_at_once_it_ends_by_a_signal(site: Site) -> None:
    handle = await site.start()
    ended = asyncio.ensure_future(_end(handle))
    await asyncio.sleep(0)
    assert handle.destroy()
    status = await ended
    assert status is not None and status < 0


async def test_nothing_is_told_after_unwatch(site: Site) -> None:
    handle, told = await site.start(), list[int | None]()
    handle.watch(told.append)
    handle.watch_members(lambda: told.append(None))
    handle.unwatch()
    handle.destroy()
    await asyncio.sleep(0.1)
    assert told == []


async def test_an_end_before_the_watch_is_told_and_not_from_within_it(site: Site) -> None:
    handle, told = await site.start(), list[int | None]()
    handle.stop()
    await _end(handle)
    handle.watch(told.append)
    assert told == []
    while not told:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("written", [True, False])
async def test_a_successor_finds_it_again(site: Site, written: bool) -> None:
    spec = site.spec()
    handle = await site.start(spec)
    other = site.successor()
    assert other.prepared(spec.run_file) == {"incarnation": 1} and other.boot() == site.driver.boot()
    found = other.recover(replace(spec, env={}), handle.identity if written else None)
    assert found is not None
    assert (found.identity, found.pid, found.endpoint) == (handle.identity, handle.pid, spec.endpoint)
    assert not found.empty() and found.logs(1) == ["there"]
    found.stop()
    await _end(found)
    assert found.destroy() and found.identity == handle.identity


async def test_what_was_never_started_is_not_recovered(site: Site) -> None:
    spec = site.spec()
    assert site.driver.recover(spec, None) is None and site.driver.prepared(spec.run_file) is None
    site.driver.prepare(spec.run_file, {"incarnation": 1})
    assert site.driver.recover(spec, None) is None


async def test_preparing_another_start_forgets_the_one_before(site: Site) -> None:
    spec = site.spec()
    handle = await site.start(spec)
    site.driver.prepare(spec.run_file)
    assert site.driver.recover(spec, None) is None and site.driver.prepared(spec.run_file) is None
    assert site.driver.recover(spec, handle.identity) is not None


def test_places_that_are_taken_are_not_given_away(site: Site) -> None:
    taken: list[WorkerEndpoint] = []
    for _ in range(5):
        taken.append(site.driver.reserve(taken))
    assert len(set(taken)) == 5 and all(place.url.startswith("http") for place in taken)


async def test_logs_are_those_of_all_starts_each_under_its_title(site: Site) -> None:
    handle = await site.start()
    assert [line for line in handle.logs(100) if "there" in line or "title" in line][-2:] == ["--- its title", "there"]
    assert handle.logs(1) == ["there"] and handle.logs(0) == []


async def test_an_adapter_is_where_the_worker_runs_and_is_known_from_there(site: Site, tmp_path: Path) -> None:
    spec = site.spec()
    handle = await site.start(spec)
    content = content_hash(adapter_path("pirate"))
    folder = take_in(adapter_path("pirate"), tmp_path / "store", content)
    there = await handle.provide(folder, [])
    assert content_hash(there) == content and await handle.provide(folder, [folder]) == there
    found = site.successor().recover(replace(spec, env={}), handle.identity)
    assert found is not None and {handle.origin(str(there)), found.origin(str(there))} == {str(folder)}
    assert found.origin("/elsewhere") == "/elsewhere" and found.origin("a-name") == "a-name"
    with pytest.raises(OSError):
        (await handle.provide(tmp_path / "store" / ("0" * 64), [])).stat()


async def test_stats_are_of_all_that_runs_and_of_nothing_that_does_not(site: Site) -> None:
    handle = await site.start()
    stats = site.driver.stats({"a": handle})["a"]
    assert stats.cpu and stats.key == site.driver.stats({"a": handle})["a"].key
    await asyncio.to_thread(eventually, lambda: not handle.destroy())
    await _end(handle)
    assert not site.driver.stats({"a": handle})["a"].cpu and site.driver.stats({}) == {}
