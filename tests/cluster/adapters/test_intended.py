"""What becomes of a load from a reference when its supervisor ends in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.adapters.intended import LOADS, IntendedLoads, LoadIntent
from cluster.adapters.rollout import Rollouts
from cluster.errors import Refused
from cluster.jobs.pulls import SourceFetcher
from cluster.storage.store import NotSaved
from fakes import soon
from inprocess import running, until
from worker.demo import adapter_path

WANTED = LoadIntent("sql", "hf://org/sql", True, "writes SQL", True, "b")


class FakeStore:
    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []
        self.full = False

    async def put(self, **values: Any) -> None:
        if self.full:
            raise NotSaved("the disk is full")
        self.value(**values)

    def value(self, **values: Any) -> None:
        self.kept = values[LOADS]


class FakeRollouts:
    """``over`` is set: what ``ends`` does happens."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.over = asyncio.Event()
        self.ends: Callable[[], None] = lambda: None

    async def load(self, *given: Any) -> tuple[int, dict[str, Any]]:
        self.asked.append(given)
        await self.over.wait()
        self.ends()
        return 200, {}


class Supervisor:
    def __init__(self, store: FakeStore) -> None:
        self.rollouts = FakeRollouts()
        self.events: list[tuple[str, str]] = []
        self.loads = IntendedLoads(cast(Rollouts, self.rollouts), store, self._emit)

    def _emit(self, subject: str, text: str, *, kind: str, data: Mapping[str, Any] | None = None) -> None:
        self.events.append((kind, text))


async def test_it_is_written_down_until_it_is_over() -> None:
    store = FakeStore()
    one = Supervisor(store)
    asked = asyncio.ensure_future(one.loads.load(WANTED))
    await soon(lambda: one.rollouts.asked)
    assert store.kept == [asdict(WANTED)] and one.rollouts.asked == [tuple(asdict(WANTED).values())[:-1]]
    one.rollouts.over.set()
    assert (await asked)[0] == 200 and store.kept == [] and one.events == []


async def test_the_next_supervisor_goes_on_with_it() -> None:
    store = FakeStore()
    one = Supervisor(store)
    asked = asyncio.ensure_future(one.loads.load(WANTED))
    await soon(lambda: one.rollouts.asked)
    asked.cancel()
    await asyncio.wait([asked])
    two = Supervisor(store)
    two.loads.begin(store.kept)
    await soon(lambda: two.rollouts.asked == one.rollouts.asked)
    assert two.events == [("adapter.resumed", "goes on loading sql from hf://org/sql")]
    assert [kept["tries"] for kept in store.kept] == [1]
    await two.loads.close()
    assert len(store.kept) == 1, "the next but one goes on as well"
    two.rollouts.over.set()
    three = Supervisor(store)
    three.rollouts.over.set()
    three.loads.begin(store.kept)
    await soon(lambda: store.kept == [])
    await three.loads.close()


async def test_why_it_came_to_nothing_is_told() -> None:
    def refuse() -> None:
        raise Refused(404, "it is not there")

    store = FakeStore()
    one = Supervisor(store)
    one.rollouts.ends = refuse
    one.rollouts.over.set()
    one.loads.begin([asdict(WANTED), {"unknown": "to this release"}])
    await soon(lambda: store.kept == [])
    assert one.events[-1] == ("adapter.failed", "sql could not be loaded from hf://org/sql: it is not there")
    with pytest.raises(Refused):
        await one.loads.load(WANTED)
    assert store.kept == []


async def test_what_ends_supervisors_is_given_up() -> None:
    store = FakeStore()
    store.kept = [asdict(WANTED)]
    for _ in range(3):
        one = Supervisor(store)
        one.loads.begin(store.kept)
        await soon(lambda one=one: one.rollouts.asked)
        await one.loads.close()
    last = Supervisor(store)
    last.loads.begin(store.kept)
    await soon(lambda: store.kept == [])
    assert last.rollouts.asked == [] and "given up, as 3 supervisors ended" in last.events[-1][1]


async def test_a_path_is_not_written_down_and_a_cluster_that_ends_goes_on_with_nothing() -> None:
    store = FakeStore()
    one = Supervisor(store)
    asked = asyncio.ensure_future(one.loads.load(LoadIntent("sql", "/adapters/sql")))
    await soon(lambda: one.rollouts.asked)
    assert store.kept == []
    one.rollouts.over.set()
    await asked
    store.kept = [asdict(WANTED)]
    one.loads.begin(store.kept, ending=True)
    assert store.kept == []
    one.loads.begin([asdict(WANTED)])
    await one.loads.close(forget=True)
    assert store.kept == []
    one, store.full = Supervisor(store), True
    with pytest.raises(NotSaved):
        await one.loads.load(WANTED)
    assert one.rollouts.asked == []


async def test_a_whole_cluster_goes_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetching, come = asyncio.Event(), asyncio.Event()

    async def folder(self: SourceFetcher, text: str, what: str, by: str = "") -> Path:
        fetching.set()
        await come.wait()
        return adapter_path("pirate")

    monkeypatch.setattr(SourceFetcher, "folder", folder)
    async with running(tmp_path / "state", monkeypatch) as cluster:
        await cluster.settled(1)
        asked = asyncio.ensure_future(cluster.parts.loads.load(LoadIntent("mine", "hf://org/mine")))
        await fetching.wait()
        asked.cancel()
        await asyncio.wait([asked])
    come.set()
    async with running(tmp_path / "state", monkeypatch) as cluster:
        await cluster.settled(1)
        cluster.parts.loads.begin(await cluster.parts.store.get(LOADS))
        await soon(lambda: [one.kind for one in cluster.parts.events.events][-1:] == ["adapter.loaded"])

        async def served() -> bool:
            return await cluster.complete("mine") == 200

        await until(served)
        await soon(lambda: cluster.parts.loads._open == [])
        await cluster.parts.loads.close()
