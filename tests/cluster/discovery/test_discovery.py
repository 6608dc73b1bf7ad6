"""Servers that are listed join the cluster and leave it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.discovery import discovery
from cluster.discovery.discovery import BackendDiscovery
from cluster.discovery.listing import Listing, SourceFailed
from cluster.discovery.membership import LEAVE_S, LISTS, MOST_LEAVE_S
from cluster.monitoring.external import ExternalBackend
from clusterfakes import Unrun, external
from config.values.discovery import Discovery, ListFile

A, B, C = "http://a:1", "http://b:1", "http://c:1"


class Source:
    """Says what a test has it say."""

    def __init__(self, place: Discovery) -> None:
        self.said: asyncio.Queue[Listing | SourceFailed] = asyncio.Queue()
        self.closed = False

    async def listed(self, within: float) -> Listing:
        said = await self.said.get()
        if isinstance(said, SourceFailed):
            raise said
        return said

    async def close(self) -> None:
        self.closed = True


class Control:
    """What a discovery works on; `hear` brings a list all the way, ``hosted`` are those that are probed."""

    connected, next_version = True, (1, 9)

    def __init__(self, folder: Path, places: int = 1, static: tuple[str, ...] = ()) -> None:
        self.parts = Unrun(folder)
        self.now, self.intent = self.parts.time, self.parts.fleet.intent
        self.external = [external(url) for url in static]
        self.hosted: list[str] = []
        self.kept: dict[str, Any] = {}
        self.told: list[str] = []
        self.sources: list[Source] = []
        self.places = [ListFile(Path(f"/list{number}")) for number in range(places)]
        self.discovery = self.make()

    def make(self) -> BackendDiscovery:
        def source(place: Discovery) -> Source:
            self.sources.append(Source(place))
            return self.sources[-1]

        return BackendDiscovery(
            self.places, self.external, 1, self.intent, self._save, self._emit, lambda event: event(), self.now, source
        )

    def _save(self, kept: dict[str, Any]) -> None:
        self.kept = kept

    def _emit(self, subject: str, text: str, kind: str = "note", data: Mapping[str, Any] | None = None) -> None:
        self.told.append(f"{kind} {subject} {text}")

    def attach(self, backend: ExternalBackend) -> None:
        self.hosted.append(backend.id)

    def detach(self, backend: ExternalBackend) -> None:
        self.hosted.remove(backend.id)

    async def hear(self, *urls: str, source: int = 0, after: float = 0.0, left_out: str = "") -> None:
        await self._say(Listing(urls, left_out), source, after)

    async def fail(self, why: str, source: int = 0) -> None:
        await self._say(SourceFailed(why), source, 0.0)

    async def _say(self, said: Listing | SourceFailed, source: int, after: float) -> None:
        self.now.advance(after)
        self.sources[source].said.put_nowait(said)
        for _ in range(5):  # turns of the loop until it is heard
            await asyncio.sleep(0)
        self.discovery.settle(self)

    def there(self) -> dict[str, str]:
        return {backend.id: backend.spec.address for backend in self.external}


@pytest.fixture
async def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Control]]:
    monkeypatch.setattr(discovery, "_RETRY_S", 0.0)
    made: list[Control] = []

    def make(**how: Any) -> Control:
        made.append(Control(tmp_path, **how))
        made[-1].discovery.restore(None, "the key")
        made[-1].discovery.begin(made[-1])
        return made[-1]

    yield make
    for control in made:
        await control.discovery.close()
        assert all(source.closed for source in control.sources)


async def test_who_is_listed_is_probed_with_the_key_and_kept(make: Callable[..., Control]) -> None:
    control = make()
    await control.hear(B, A)
    assert control.there() == {"backend_0": A, "backend_1": B} and control.hosted == ["backend_0", "backend_1"]
    first = control.external[0]
    assert (first.spec.api_key, first.spec.managed, first.origin) == ("the key", False, "file:/list0")
    assert control.told[0] == f"backend.joined backend_0 joins ({A}, listed by file:/list0)"
    assert control.kept["backend_1"] == {"url": B, "origin": "file:/list0", "leaving": False}
    assert control.discovery.describe() == [
        {"source": "file:/list0", "servers": 2, "missing": 0, "left_out": "", "failure": "", "age_s": 0.0}
    ]


async def test_who_leaves_is_drained_first(make: Callable[..., Control]) -> None:
    control = make()
    await control.hear(A, B, C)
    for _ in range(2):
        await control.hear(B, C, after=LEAVE_S)
    cordons = control.intent.cordons
    assert "backend_0" in cordons and "backend_0" in control.there(), "what runs there may finish"
    assert control.kept["backend_0"]["leaving"] and "backend_0" in control.hosted
    control.intent.cordons.in_flight((1, 9), {"backend_0": 0})
    control.intent.weights["backend_0"] = 3
    cordons.advance(control.now())
    control.discovery.settle(control)
    assert control.there() == {"backend_1": B, "backend_2": C} and control.hosted == ["backend_1", "backend_2"]
    assert "backend_0" not in cordons and not control.intent.weights and "backend_0" not in control.kept
    assert [words.split()[0] for words in control.told[-2:]] == ["backend.leaving", "backend.left"]


async def leaving(control: Control) -> None:
    await control.hear(A, B, C)
    for _ in range(2):
        await control.hear(B, C, after=LEAVE_S)


async def test_who_is_listed_again_while_it_is_drained_stays(make: Callable[..., Control]) -> None:
    control = make()
    await leaving(control)
    await control.hear(A, B, C)
    assert "backend_0" not in control.intent.cordons and control.there()["backend_0"] == A
    assert not control.kept["backend_0"]["leaving"]


async def test_a_drain_that_a_person_asked_for_is_not_ended_by_a_list(make: Callable[..., Control]) -> None:
    control = make()
    await control.hear(A, B, C)
    control.intent.cordon("backend_0", 30.0, control.now(), (1, 9), True)
    for _ in range(2):
        await control.hear(B, C, after=LEAVE_S)
    await control.hear(A, B, C)
    assert "backend_0" in control.intent.cordons


async def test_who_leaves_cannot_be_put_back_by_hand(make: Callable[..., Control]) -> None:
    control = make()
    await leaving(control)
    control.intent.cordons.end("backend_0")
    control.discovery.settle(control)
    assert "backend_0" in control.intent.cordons


async def test_an_id_rests_before_it_is_given_to_another(make: Callable[..., Control]) -> None:
    control = make()
    await leaving(control)
    control.intent.cordons.in_flight((1, 9), {})
    control.intent.cordons.advance(control.now())
    await control.hear(B, C, "http://d:1")
    assert control.there() == {"backend_1": B, "backend_2": C, "backend_3": "http://d:1"}
    await control.hear(B, C, "http://d:1", "http://e:1", after=60.0)
    assert control.there()["backend_0"] == "http://e:1"


async def test_what_was_listed_last_holds_while_nobody_can_be_asked(make: Callable[..., Control]) -> None:
    control = make()
    await control.hear(A)
    await control.fail("no answer")
    await control.fail("no answer")
    assert control.there() == {"backend_0": A} and control.discovery.describe()[0]["failure"] == "no answer"
    assert [words for words in control.told if "discovery" in words] == [
        "discovery.failed discovery file:/list0 cannot be asked, what it listed last holds: no answer"
    ], "once"
    await control.hear(A)
    assert control.told[-1] == "discovery.recovered discovery file:/list0 can be asked again"
    assert control.discovery.describe()[0]["failure"] == ""


async def test_an_empty_list_drains_all_only_once_it_is_believed(make: Callable[..., Control]) -> None:
    control = make()
    await control.hear(A, B)
    await control.hear(after=1.0)
    await control.hear(after=LEAVE_S)
    assert not list(control.intent.cordons) and control.discovery.describe()[0]["missing"] == 2
    for _ in range(LISTS):
        await control.hear(after=MOST_LEAVE_S / LISTS)
    assert list(control.intent.cordons) == ["backend_0", "backend_1"]


async def test_what_is_left_out_is_said_once(make: Callable[..., Control]) -> None:
    control = make()
    for words in ("127.0.0.1:1 (loopback)", "127.0.0.1:1 (loopback)", ""):
        await control.hear(A, left_out=words)
    assert [words for words in control.told if words.startswith("discovery")] == [
        "discovery.left_out discovery file:/list0: not taken: 127.0.0.1:1 (loopback)"
    ]


async def test_a_server_is_one_however_many_name_it(make: Callable[..., Control]) -> None:
    control = make(places=2, static=(A,))
    await control.hear(A, B)
    await control.hear(B, C, source=1)
    assert sorted(control.there().values()) == [A, B, C]
    assert [backend.origin for backend in control.external] == ["--backend", "file:/list0", "file:/list1"]
    for _ in range(LISTS + 1):
        await control.hear(A, after=MOST_LEAVE_S)
    assert not list(control.intent.cordons), "the other list has it"


async def test_the_next_supervisor_goes_on_with_what_was_listed(make: Callable[..., Control], tmp_path: Path) -> None:
    before = make()
    await leaving(before)
    after = Control(tmp_path)
    after.discovery.restore({**before.kept, "backend_9": {"url": A, "origin": "dns:gone:1", "leaving": False}}, "k")
    after.discovery.settle(after)
    assert after.there() == before.there() and {b.spec.api_key for b in after.external} == {"k"}
    assert list(after.intent.cordons) == ["backend_0"], "it leaves on"
    assert [one["servers"] for one in after.discovery.describe()] == [2]


def test_an_id_that_this_start_gives_to_another_is_not_taken_from_it(tmp_path: Path) -> None:
    """More servers are named by --backend than before."""
    control = Control(tmp_path, static=(A,))
    control.discovery.restore({"backend_0": {"url": C, "origin": "file:/list0", "leaving": False}}, None)
    assert control.there() == {"backend_0": A, "backend_1": C}


async def test_nothing_is_done_where_nothing_was_heard(make: Callable[..., Control]) -> None:
    """It is asked after every event of the supervisor."""
    control = make()
    await control.hear(A)
    control.external.clear()
    control.discovery.settle(control)
    assert control.external == []


def test_a_cluster_without_lists_has_none(tmp_path: Path) -> None:
    assert Unrun(tmp_path).discovery.describe() == []
