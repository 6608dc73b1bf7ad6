"""A load from a reference whose supervisor ends in the middle, in a whole cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cluster.adapters.intended import AdapterLoadIntent
from cluster.jobs.pulls import SourceFetcher
from fakes import soon
from inprocess import running, until
from worker.demo import adapter_path


async def test_a_whole_cluster_goes_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetching, come = asyncio.Event(), asyncio.Event()

    async def folder(self: SourceFetcher, text: str, what: str, by: str = "") -> Path:
        fetching.set()
        await come.wait()
        return adapter_path("pirate")

    monkeypatch.setattr(SourceFetcher, "folder", folder)
    async with running(tmp_path / "state", monkeypatch) as cluster:
        await cluster.settled(1)
        wanted = AdapterLoadIntent("mine", "hf://org/mine")
        asked = asyncio.ensure_future(cluster.parts.loads.carry_out(wanted))
        await fetching.wait()
        asked.cancel()
        await asyncio.wait([asked])
    come.set()
    async with running(tmp_path / "state", monkeypatch) as cluster:
        await cluster.settled(1)
        cluster.parts.loads.begin(await cluster.parts.store.get("adapter_loads"))
        await soon(lambda: [one.kind for one in cluster.parts.events.events][-1:] == ["adapter.loaded"])

        async def served() -> bool:
            return await cluster.complete("mine") == 200

        await until(served)
        await soon(lambda: cluster.parts.loads._open == [])
        await cluster.parts.loads.close()
