"""What becomes of a load when its supervisor ends in the middle: the same of an adapter's and of a model's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import pytest

from cluster.adapters.intended import AdapterLoadIntent
from cluster.errors import Refused
from cluster.jobs.intents import IntentLog, LoadIntent
from cluster.models.intended import ModelLoadIntent
from cluster.storage.store import NotSaved
from fakes import soon

ADAPTER = AdapterLoadIntent("sql", "hf://org/sql", True, "writes SQL", True, "b")
MODEL = ModelLoadIntent("second", {"path": "hf://org/base", "instances": 2})

each = pytest.mark.parametrize("wanted", [ADAPTER, MODEL], ids=["adapter", "model"])


class FakeStore:
    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []
        self.full = False

    async def put(self, **values: Any) -> None:
        if self.full:
            raise NotSaved("the disk is full")
        self.value(**values)

    def value(self, **values: Any) -> None:
        self.kept = values["loads"]


class Supervisor:
    """``over`` is set: what ``ends`` does happens."""

    def __init__(self, store: FakeStore, kind: type[LoadIntent]) -> None:
        self.asked: list[LoadIntent] = []
        self.over = asyncio.Event()
        self.ends: Callable[[], None] = lambda: None
        self.events: list[tuple[str, str, str]] = []
        self.loads: IntentLog[Any] = IntentLog("loads", kind, self._do, store, self._emit)

    async def _do(self, wanted: LoadIntent) -> tuple[int, dict[str, Any]]:
        self.asked.append(wanted)
        await self.over.wait()
        self.ends()
        return 200, {}

    def _emit(self, subject: str, text: str, kind: str = "note", data: Mapping[str, Any] | None = None) -> None:
        self.events.append((subject, text, kind))


@each
async def test_it_is_written_down_until_it_is_over(wanted: LoadIntent) -> None:
    store = FakeStore()
    one = Supervisor(store, type(wanted))
    asked = asyncio.ensure_future(one.loads.carry_out(wanted))
    await soon(lambda: one.asked)
    assert store.kept == [asdict(wanted)] and one.asked == [wanted]
    one.over.set()
    assert (await asked)[0] == 200 and store.kept == [] and one.events == []


@each
async def test_the_next_supervisor_goes_on_with_it(wanted: LoadIntent) -> None:
    store = FakeStore()
    one = Supervisor(store, type(wanted))
    asked = asyncio.ensure_future(one.loads.carry_out(wanted))
    await soon(lambda: one.asked)
    asked.cancel()
    await asyncio.wait([asked])
    two = Supervisor(store, type(wanted))
    two.loads.begin(store.kept)
    await soon(lambda: two.asked == [replace(wanted, tries=1)])
    assert two.events == [
        ("adapters", "goes on loading sql from hf://org/sql", "adapter.resumed") if wanted is ADAPTER
        else ("second", "goes on being loaded from hf://org/base", "model.resumed")
    ]  # fmt: skip
    assert [kept["tries"] for kept in store.kept] == [1]
    await two.loads.close()
    assert len(store.kept) == 1, "the next but one goes on as well"
    three = Supervisor(store, type(wanted))
    three.over.set()
    three.loads.begin(store.kept)
    await soon(lambda: store.kept == [])
    await three.loads.close()


@each
async def test_why_it_came_to_nothing_is_told(wanted: LoadIntent) -> None:
    def refuse() -> None:
        raise Refused(404, "it is not there")

    store = FakeStore()
    one = Supervisor(store, type(wanted))
    one.ends = refuse
    one.over.set()
    one.loads.begin([asdict(wanted), {"unknown": "to this release"}])
    await soon(lambda: store.kept == [])
    assert one.events[-1] == (
        ("adapters", "sql could not be loaded from hf://org/sql: it is not there", "adapter.failed")
        if wanted is ADAPTER
        else ("second", "could not be loaded from hf://org/base: it is not there", "model.failed")
    )
    with pytest.raises(Refused):
        await one.loads.carry_out(wanted)
    assert store.kept == []


@each
async def test_what_ends_supervisors_is_given_up(wanted: LoadIntent) -> None:
    store = FakeStore()
    store.kept = [asdict(wanted)]
    for _ in range(3):
        one = Supervisor(store, type(wanted))
        one.loads.begin(store.kept)
        await soon(lambda one=one: one.asked)
        await one.loads.close()
    last = Supervisor(store, type(wanted))
    last.loads.begin(store.kept)
    await soon(lambda: store.kept == [])
    assert last.asked == [] and "given up, as 3 supervisors ended" in last.events[-1][1]


@pytest.mark.parametrize(("wanted", "lasts"), [
    (ADAPTER, True), (AdapterLoadIntent("sql", "/adapters/sql"), False),
    (MODEL, True), (ModelLoadIntent("second", {"path": "/models/base"}), False),
    (ModelLoadIntent("second", {"path": "/models/base", "adapters": {"sql": "hf://org/sql"}}), True),
    (ModelLoadIntent("second", {"path": "/models/base", "adapters": {"sql": "/adapters/sql"}}), True),
])  # fmt: skip
async def test_only_what_lasts_is_written_down(wanted: LoadIntent, lasts: bool) -> None:
    store = FakeStore()
    one = Supervisor(store, type(wanted))
    asked = asyncio.ensure_future(one.loads.carry_out(wanted))
    await soon(lambda: one.asked)
    assert bool(store.kept) == lasts
    one.over.set()
    await asked


@each
async def test_a_cluster_that_ends_goes_on_with_nothing(wanted: LoadIntent) -> None:
    store = FakeStore()
    one = Supervisor(store, type(wanted))
    store.kept = [asdict(wanted)]
    one.loads.begin(store.kept, ending=True)
    assert store.kept == []
    one.loads.begin([asdict(wanted)])
    await one.loads.close(forget=True)
    assert store.kept == []


@each
async def test_what_cannot_be_written_down_is_not_begun(wanted: LoadIntent) -> None:
    store = FakeStore()
    one, store.full = Supervisor(store, type(wanted)), True
    with pytest.raises(NotSaved):
        await one.loads.carry_out(wanted)
    assert one.asked == []


@pytest.mark.parametrize(("given", "seen"), [
    ("https://host/sql.zip?X-Amz-Signature=secret", "https://host/sql.zip?…"),
    ("https://me:secret@host/sql.zip", "https://…@host/sql.zip"),
])  # fmt: skip
def test_a_signature_is_shown_to_nobody(given: str, seen: str) -> None:
    told: list[Any] = []

    def emit(*words: Any, **more: Any) -> None:
        told.append((words, more))

    for one in (AdapterLoadIntent("sql", given), ModelLoadIntent("second", {"path": given})):
        one.tell_resumed(emit)
        one.tell_failed(emit, "it is not there")
    assert "secret" not in str(told) and str(told).count(seen) == 6


def test_what_an_earlier_release_has_written_down_is_read() -> None:
    row = {"name": "sql", "source": "hf://org/sql", "replaces": True, "description": None, "allow_no_effect": False,
           "model": None, "tries": 2}  # fmt: skip
    assert AdapterLoadIntent(**row) == AdapterLoadIntent("sql", "hf://org/sql", True, tries=2)
