"""Who takes connections: replaced, failed, started again. No processes: what they say and how they end is played."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster.balancers.feed import Feed
from cluster.balancers.process import BalancerProcess
from cluster.balancers.slot import BalancerSlot, ReplacementFailed
from cluster.storage.store import Store
from config.link import Phase
from config.paths import StateDir
from config.topology import BalancerConfig
from fakes import soon


class Group:
    """The keeper, as far as a slot can tell."""

    def __init__(self, folder: Path, store: Store) -> None:
        self.state, self.store = StateDir(folder), store
        self.drain_timeout = 30.0
        self.begun: list[tuple[BalancerProcess, BalancerConfig, bool]] = []
        self.told: list[str] = []
        self.exit_reports: list[tuple[int, str]] = []
        self.broken = 0
        self.ready, self._standby = False, asyncio.Event()
        self.rested: list[float] = []

    def standby(self, ready: bool) -> None:
        self.ready = ready
        (self._standby.set if ready else self._standby.clear)()

    async def rest(self, seconds: float) -> None:
        self.rested.append(round(seconds, 3))
        await self._standby.wait()  # without end, unless one gets ready

    async def begin(self, slot: str, config: BalancerConfig, warm: bool) -> BalancerProcess:
        if self.broken:
            self.broken -= 1
            raise OSError("no space left")
        process = BalancerProcess(f"lb-{len(self.begun)}", slot, len(self.begun), self, self.state, self.store)
        self.begun.append((process, config, warm))
        return process

    def emit(self, subject: str, text: str, kind: str = "note", data: Mapping[str, Any] | None = None) -> None:
        self.told.append(text)

    def lost(self, requests: int, how: str) -> None:
        self.exit_reports.append((requests, how))

    feed = Feed()

    def on_message(self, process: BalancerProcess, message: object) -> None: ...
    def ended(self, process: BalancerProcess, status: int | None) -> None: ...


def _config(**fields: float) -> BalancerConfig:
    return BalancerConfig(-1, "", "127.0.0.1", 1, fields.get("queue_timeout", 5.0))


@pytest.fixture
async def group(tmp_path: Path) -> AsyncIterator[Group]:
    store = await Store.open(tmp_path / "test.db")
    yield Group(tmp_path, store)
    await store.close()


@pytest.fixture
async def slot(group: Group) -> AsyncIterator[BalancerSlot]:
    """One that serves."""
    made = BalancerSlot("balancer", _config(), group, group)
    made.start()
    _serves(made, await _begun(group, 1))
    yield made
    await made.close()


async def _begun(group: Group, count: int) -> BalancerProcess:
    async with asyncio.timeout(5):
        while len(group.begun) < count:
            await asyncio.sleep(0.005)
    assert len(group.begun) == count
    return group.begun[-1][0]


def _serves(slot: BalancerSlot, process: BalancerProcess) -> None:
    process.phase, process.since = Phase.SERVING, asyncio.get_running_loop().time()
    slot.phase_of(process)


def _ends(slot: BalancerSlot, process: BalancerProcess, status: int | None = -9, requests: int = 0) -> None:
    process.over, process.in_flight = True, {"instance_0": requests}
    slot.ended(process, status)


async def test_the_old_one_goes_on_until_the_new_one_serves(slot: BalancerSlot, group: Group) -> None:
    (old,) = slot.line
    replacing = asyncio.ensure_future(slot.replace(_config(queue_timeout=9)))
    new = await _begun(group, 2)
    await asyncio.sleep(0.02)
    assert (slot.current, old.retiring, replacing.done()) == (old, None, False)
    new.successor = None
    _serves(slot, new)
    await soon(lambda: old.retiring == 30.0)
    assert (slot.current, slot.line) == (new, [new])
    assert not replacing.done()
    old.phase = Phase.DRAINING
    slot.phase_of(old)
    await asyncio.wait_for(replacing, 5)
    assert [config.queue_timeout for _, config, _ in group.begun] == [5.0, 9.0]
    _ends(slot, old, 0)
    assert (group.told, group.exit_reports, slot.restarts) == ([], [], 0)
    _ends(slot, new)  # and whoever comes after it has the new settings
    await _begun(group, 3)
    assert (group.begun[-1][1].queue_timeout, group.begun[-1][2]) == (9.0, True)


async def test_a_new_one_that_does_not_come_up_changes_nothing(slot: BalancerSlot, group: Group) -> None:
    (old,) = slot.line
    replacing = asyncio.ensure_future(slot.replace(_config(queue_timeout=9)))
    new = await _begun(group, 2)
    _ends(slot, new, 1)
    with pytest.raises(ReplacementFailed, match="before it took connections"):
        await replacing
    assert (slot.line, slot.config.queue_timeout, old.retiring, slot.restarts) == ([old], 5.0, None, 0)
    group.broken = 1
    with pytest.raises(ReplacementFailed, match="no space left"):
        await slot.replace(_config())
    assert slot.line == [old]


async def test_an_old_one_that_dies_meanwhile_is_not_started_again(slot: BalancerSlot, group: Group) -> None:
    (old,) = slot.line
    replacing = asyncio.ensure_future(slot.replace(_config()))
    new = await _begun(group, 2)
    _ends(slot, old, -9, requests=3)
    await asyncio.sleep(0.02)
    _serves(slot, new)
    await asyncio.wait_for(replacing, 5)
    assert (slot.line, slot.restarts, len(group.begun)) == ([new], 0, 2)
    assert group.exit_reports == [(3, "signal 9")]
    assert "with 3 requests in flight, which are lost" in group.told[0]


async def test_of_two_that_are_adopted_the_older_is_retired_when_the_newer_serves(group: Group) -> None:
    slot = BalancerSlot("balancer", _config(), group, group)
    old, new = [await group.begin("balancer", _config(), False) for _ in range(2)]
    slot.line += [old, new]
    slot.start()
    _serves(slot, old)
    await asyncio.sleep(0.02)
    assert (slot.current, old.retiring) == (old, None)
    _serves(slot, new)
    await soon(lambda: old.retiring)
    assert (slot.current, len(group.begun)) == (new, 2)
    await slot.close()


async def test_one_that_has_served_is_followed_at_once_however_often_and_soon_it_dies(
    slot: BalancerSlot, group: Group
) -> None:
    for count in range(2, 12):
        _ends(slot, group.begun[-1][0])
        _serves(slot, await _begun(group, count))
    assert {text.split("; ")[1] for text in group.told} == {"restart at once"}
    assert (slot.restarts, group.rested) == (10, [])


async def _dies_young(slot: BalancerSlot, group: Group, times: int) -> None:
    """Before it has served, as many times in a row; each rest is ended by a standby that gets ready, and is gone."""
    for _ in range(times):
        count, rests = len(group.begun), len(group.rested)
        _ends(slot, group.begun[-1][0])
        if group.told[-1].endswith("restart at once"):
            await _begun(group, count + 1)
            continue
        await soon(lambda rests=rests: len(group.rested) > rests)  # type: ignore[misc]
        assert len(group.begun) == count, "none is started while it rests"
        group.standby(True)
        await _begun(group, count + 1)
        group.standby(False)


async def test_only_one_that_dies_before_it_has_served_is_followed_later(slot: BalancerSlot, group: Group) -> None:
    """The first of these is not: most deaths are single ones."""
    _ends(slot, group.begun[-1][0])
    await _begun(group, 2)
    await _dies_young(slot, group, 9)
    assert group.rested == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0]
    assert [text.split("; ")[1] for text in group.told[:3]] == ["restart at once"] * 2 + ["restart in 0.2 s"]
    _serves(slot, group.begun[-1][0])
    _ends(slot, group.begun[-1][0])  # it has served: that is forgotten
    await _begun(group, len(group.begun) + 1)
    assert group.told[-1].endswith("restart at once") and len(group.rested) == 8


async def test_a_standby_that_is_ready_takes_over_at_once_whatever_has_been(slot: BalancerSlot, group: Group) -> None:
    _ends(slot, group.begun[-1][0])
    await _begun(group, 2)
    await _dies_young(slot, group, 5)
    group.standby(True)
    rests = len(group.rested)
    _ends(slot, group.begun[-1][0])
    await _begun(group, len(group.begun) + 1)
    assert len(group.rested) == rests and group.told[-1].endswith("restart at once")


async def test_what_cannot_be_started_is_tried_again(slot: BalancerSlot, group: Group) -> None:
    group.broken = 1
    _ends(slot, slot.line[0])
    _serves(slot, await _begun(group, 2))
    assert "cannot be started: no space left" in group.told[-1]


async def test_one_that_never_serves_is_killed(
    group: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.balancers.slot._START_S", 0.05)
    killed: list[str] = []
    monkeypatch.setattr(BalancerProcess, "kill", lambda process: killed.append(process.name))
    slot = BalancerSlot("balancer", _config(), group, group)
    slot.start()
    await _begun(group, 1)
    await soon(lambda: killed)
    assert killed == ["lb-0"]
    await slot.close()
