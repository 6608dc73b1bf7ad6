"""Adapters on their way to a node, over HTTP: once for all that ask, what is missing only, from whom it is obeyed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from agents import KEY, Agents
from worker.adapters.content import FILES, content_hash
from worker.adapters.store import take_in
from worker.agent import server
from worker.agent.cache import AdapterCache
from worker.agent.starts import Starts
from worker.demo import adapter_path
from worker.drivers.remote import client
from worker.drivers.remote.client import AgentRefused, Unreachable
from worker.drivers.remote.links import AgentLinks
from worker.drivers.remote.node import RemoteNode
from worker.drivers.remote.offers import OFFER, OFFSET, RANK, AdapterOffer, read_offer, upload_path
from worker.drivers.remote.protocol import AgentAddress, NodeReport
from worker.drivers.remote.transfers import AdapterTransfers

_START, _MOST = "a" * 32, 1024**3


class Way:
    """From a supervisor's store to one node. ``received``: bytes of each file that came, as it came."""

    def __init__(self, folder: Path, address: AgentAddress, cache: AdapterCache, http: aiohttp.ClientSession) -> None:
        self.store, self.cache, self.http, self.address = folder / "store", cache, http, address
        self.node = RemoteNode("a", address, 0, report=NodeReport("boot", 1, adapters=str(cache.folder)))
        self.received: list[tuple[str, int]] = []
        self.append, cache.append = cache.append, self._append  # type: ignore[method-assign]
        self.content = content_hash(adapter_path("pirate"))
        self.folder = take_in(adapter_path("pirate"), self.store, self.content)
        self.sizes = {name: (self.folder / name).stat().st_size for name in FILES}
        self.transfers = self.of(rank=2)

    def of(self, rank: int, most: int = _MOST) -> AdapterTransfers:
        """Of a supervisor that began at ``rank``."""
        links = AgentLinks(Agents(self.store), rank, 60)
        links.http = self.http
        return AdapterTransfers(links, self.store, most)

    def _append(self, content: str, name: str, offset: int, data: bytes) -> None:
        self.received.append((name, len(data)))
        self.append(content, name, offset, data)

    async def provide(self) -> Path:
        return await self.transfers.provide(self.node, _START, self.folder, [])


@asynccontextmanager
async def _serving(folder: Path) -> AsyncIterator[tuple[AgentAddress, AdapterCache]]:
    cache = AdapterCache(folder / "node" / "adapters")
    agent = server.make(KEY, 60, lambda changed: Starts(folder / "node", "127.0.0.1", changed), cache)
    runner = web.AppRunner(agent.application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield AgentAddress("127.0.0.1", runner.addresses[0][1], KEY), cache
    finally:
        await runner.cleanup()


@pytest.fixture
async def way(tmp_path: Path) -> AsyncIterator[Way]:
    async with _serving(tmp_path) as (address, cache), aiohttp.ClientSession() as http:
        yield Way(tmp_path, address, cache, http)


async def test_all_that_ask_at_once_share_one_transfer(way: Way) -> None:
    found = await asyncio.gather(*(way.provide() for _ in range(8)))
    assert {str(folder) for folder in found} == {str(way.cache.folder / way.content)}
    assert content_hash(found[0]) == way.content
    assert {name: sum(size for one, size in way.received if one == name) for name in FILES} == way.sizes


async def test_who_gives_up_waiting_does_not_end_it_for_others(way: Way) -> None:
    first, second = (asyncio.ensure_future(way.provide()) for _ in range(2))
    while not way.received:
        await asyncio.sleep(0)
    first.cancel()
    assert content_hash(await second) == way.content


async def test_what_arrived_before_the_way_broke_off_is_not_sent_again(way: Way) -> None:
    cut = 1000

    async def broken() -> AsyncIterator[bytes]:
        yield (way.folder / FILES[1]).read_bytes()[:cut]
        while not way.received:
            await asyncio.sleep(0.001)
        raise ConnectionResetError("cut")

    offer = AdapterOffer(_START, way.content, way.sizes, (), _MOST)
    await client.call(way.http, way.address, OFFER, {RANK: 2, **offer.to_json()}, 5)
    way_there = upload_path(way.content, FILES[1])
    way.cache.append(way.content, FILES[1], 0, (way.folder / FILES[1]).read_bytes()[:cut])
    with pytest.raises(Unreachable):
        await client.send(way.http, way.address, way_there, {RANK: "2", OFFSET: str(cut)}, broken())
    way.received.clear()
    assert content_hash(await way.provide()) == way.content
    assert way.received == [(FILES[0], way.sizes[FILES[0]]), (FILES[1], way.sizes[FILES[1]] - cut)]


async def test_what_is_not_what_it_is_named_is_refused_and_not_kept(way: Way) -> None:
    way.folder = way.folder.rename(way.store / ("0" * 64))
    with pytest.raises(AgentRefused, match="other content"):
        await way.provide()
    assert not [path for path in way.cache.folder.iterdir() if path.is_dir()]


async def test_a_node_without_room_says_so(way: Way) -> None:
    with pytest.raises(AgentRefused, match="no room"):
        await way.of(rank=2, most=1000).provide(way.node, _START, way.folder, [])
    assert not way.received


async def test_of_two_supervisors_the_later_one_is_obeyed(way: Way) -> None:
    await way.of(rank=3).provide(way.node, _START, way.folder, [])
    with pytest.raises(AgentRefused, match="taken over"):
        await way.provide()
    with pytest.raises(AgentRefused, match="taken over"):
        await client.send(way.http, way.address, upload_path("0" * 64, FILES[0]), {RANK: "2"}, _nothing())


async def test_nothing_is_taken_without_the_key(way: Way) -> None:
    stranger = AgentAddress(way.address.host, way.address.port, "another")
    for call in (
        client.call(way.http, stranger, OFFER, {RANK: 2}, 5),
        client.send(way.http, stranger, upload_path(way.content, FILES[0]), {RANK: "2"}, _nothing()),
    ):
        with pytest.raises(AgentRefused, match="key"):
            await call


@pytest.mark.parametrize("place", ["../../run/x", "..%2f..%2frun%2fx", f"{'0' * 64}/..%2f..%2f..%2fx"])
async def test_no_path_leads_out(way: Way, place: str) -> None:
    with pytest.raises(OSError):
        await client.send(way.http, way.address, f"{OFFER}/{place}", {RANK: "2", OFFSET: "0"}, _nothing(b"x"))
    found = {path.name for path in way.cache.folder.parent.rglob("*")}
    assert found == {"adapters", "run", "logs", "work"}


async def _nothing(data: bytes = b"") -> AsyncIterator[bytes]:
    yield data


@pytest.mark.parametrize(
    "changed",
    [{"content": "../x"}, {"content": "0" * 63}, {"files": {"../x": 1}}, {"files": {"x": -1}}, {"files": {"x": True}},
     {"files": {}}, {"held": ["../x"]}, {"held": ["0" * 64] * 20_000}, {"most": 0}, {"start": "x"}],
)  # fmt: skip
def test_what_is_no_offer(changed: dict[str, object]) -> None:
    good = AdapterOffer(_START, "0" * 64, {FILES[0]: 1}, ("1" * 64,), 10).to_json()
    assert read_offer(good).to_json() == good
    with pytest.raises(ValueError):
        read_offer({**good, **changed})


async def test_a_path_there_is_known_by_the_folder_here(way: Way) -> None:
    assert way.transfers.origin(way.node, str(await way.provide())) == str(way.folder)
    assert way.transfers.origin(way.node, f"/tmp/{way.content}") == f"/tmp/{way.content}"
    way.node.report = None
    assert way.transfers.origin(way.node, "/x") == "/x"
