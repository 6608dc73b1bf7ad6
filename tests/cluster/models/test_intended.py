"""The load of a model whose supervisor ends in the middle, in a whole cluster."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cluster.adapters.rollout import Rollouts
from cluster.api.models import LoadModel
from cluster.deployment.plan import Plan
from cluster.errors import Refused
from cluster.jobs.pulls import SourceFetcher
from fakes import soon
from inprocess import InProcess, running, until
from worker.demo import adapter_path
from worker.sources.store import Fetched, SourceStore

ADAPTER = str(adapter_path("pirate"))


class Stop:
    """Where a load is held up, until a test says ``go``."""

    def __init__(self) -> None:
        self.reached, self.go = asyncio.Event(), asyncio.Event()

    async def here(self) -> None:
        self.reached.set()
        await self.go.wait()

    async def end(self, load: asyncio.Task[Any]) -> None:
        """Its supervisor ends; nothing holds up the next one."""
        await self.reached.wait()
        load.cancel()
        await asyncio.wait([load])
        self.go.set()


@pytest.fixture
def fetching(monkeypatch: pytest.MonkeyPatch) -> Stop:
    """References mean the demo's adapter, and are fetched for as long as the test wants."""
    stop = Stop()

    async def fetch(self: SourceFetcher, text: str, what: str, by: str = "") -> Path:
        await stop.here()
        return Path(ADAPTER)

    monkeypatch.setattr(SourceFetcher, "folder", fetch)
    monkeypatch.setattr(SourceStore, "find", lambda *_: Fetched("hf://org/sea", "a", ADAPTER, {}, 0.0, "adapter"))
    return stop


async def load(cluster: InProcess, **more: Any) -> tuple[int, dict[str, Any]]:
    body = LoadModel(**{"model_name": "second", "model_path": "demo", **more})
    return await cluster.parts.model_loads.carry_out(await cluster.parts.model_commands.intended(body))


async def left(cluster: InProcess) -> list[dict[str, Any]]:
    """What the next supervisor would go on with."""
    await cluster.parts.write_behind.flush()
    return list(await cluster.parts.store.get("model_loads") or ())


async def answers(cluster: InProcess, *names: str) -> None:
    async def seen() -> bool:
        return [await cluster.complete(name) for name in names] == [200] * len(names)

    await until(seen)


async def test_one_that_is_fetched_then_is_loaded_by_the_next(
    fetching: Stop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, monkeypatch) as cluster:
        asked = asyncio.create_task(load(cluster, adapters={"sea": "hf://org/sea"}, served_names=["2nd"]))
        await fetching.end(asked)
        definition = {"path": "demo", "adapters": {"sea": "hf://org/sea"}, "served_names": ["2nd"]}
        assert await left(cluster) == [{"name": "second", "definition": definition, "tries": 0}]
        assert "second" not in cluster.parts.revisions.plans
    async with running(tmp_path, monkeypatch) as cluster:
        cluster.parts.model_loads.begin(await left(cluster))
        await answers(cluster, "2nd", "sea")
        kinds = [event.kind for event in cluster.parts.events.events if event.subject == "second"]
        assert kinds[:2] == ["model.resumed", "model.loaded"] and await left(cluster) == []


async def test_its_adapters_are_taken_in_though_it_was_there_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A supervisor that takes a model over does not do that by itself: they may have been unloaded since."""
    stop, take_in = Stop(), Rollouts.take_in_given

    async def held_up(self: Rollouts, plan: Plan) -> None:
        await stop.here()
        await take_in(self, plan)

    async with running(tmp_path, monkeypatch) as cluster:
        monkeypatch.setattr(Rollouts, "take_in_given", held_up)
        await stop.end(asyncio.create_task(load(cluster, adapters={"sea": ADAPTER})))
        assert "second" in cluster.parts.revisions.plans and len(await left(cluster)) == 1
        assert "sea" not in cluster.parts.inventory.registry.adapters
        cluster.parts.model_loads.begin(await left(cluster))
        await answers(cluster, "second", "sea")
        assert await left(cluster) == []
        await cluster.parts.rollouts.unload("sea")
        assert (await load(cluster, adapters={"sea": ADAPTER}))[0] == 200
        assert "sea" not in cluster.parts.inventory.registry.adapters, "whoever asks again changes nothing"


async def test_without_its_adapters_it_goes_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where nobody has died; why is told by an event, as nobody waits for the answer."""
    stop = Stop()

    async def full(self: Rollouts, plan: Plan) -> None:
        await stop.here()
        raise OSError("no room")

    async with running(tmp_path, monkeypatch) as cluster:
        monkeypatch.setattr(Rollouts, "take_in_given", full)
        await stop.end(asyncio.create_task(load(cluster, adapters={"sea": ADAPTER})))
        cluster.parts.model_loads.begin(await left(cluster))
        await soon(lambda: [one.kind for one in cluster.parts.events.events if one.kind == "model.failed"])
        await soon(lambda: "second" not in cluster.parts.revisions.plans)
        assert await left(cluster) == []


@pytest.mark.parametrize(("body", "status"), [
    ({"model_path": "./here"}, 400), ({"instnces": 2, "adapters": {"sea": ADAPTER}}, 400),
    ({"model_path": "/none", "adapters": {"sea": "hf://org/sea"}}, 409), ({"adapters": {"sea": "/none"}}, 409),
])  # fmt: skip
async def test_what_is_refused_leaves_nothing(
    fetching: Stop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: dict[str, Any], status: int
) -> None:
    fetching.go.set()
    async with running(tmp_path, monkeypatch) as cluster:
        with pytest.raises(Refused) as refused:
            await load(cluster, **body)
        assert refused.value.status == status
        assert await left(cluster) == [] and "second" not in cluster.parts.revisions.plans
