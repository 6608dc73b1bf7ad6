"""Versions of an adapter side by side, behind an alias, over a whole cluster in one process."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from adapterfakes import make_adapter
from inprocess import MODEL, InProcess, running, until

ALIAS = "/v1/cluster/aliases/medical"


async def _put(cluster: InProcess, sides: dict[str, float], **more: Any) -> tuple[int, Any]:
    return await cluster.balancer.answer("PUT", ALIAS, json={"sides": sides, **more})


async def _versions(cluster: InProcess, folder: Path, count: int) -> None:
    for number in range(1, count + 1):
        path = make_adapter(folder / f"v{number}", number)
        assert (await cluster.load("medical", path, load_inplace=True))[1]["version"] == number


async def _held(cluster: InProcess, *names: str) -> None:
    """Returns once every worker holds these."""

    async def look() -> bool:
        return all(set(names) <= set(held) for held in (await cluster.held()).values())

    await until(look)


async def _asked(cluster: InProcess, count: int, model: str = "medical") -> list[int]:
    """The statuses of answers to so many users, 20 at a time."""
    found: list[int] = []
    for start in range(0, count, 20):
        users = [cluster.balancer.ask(model=model, user=f"user-{n}") for n in range(start, min(count, start + 20))]
        found += [status for status, _ in await asyncio.gather(*users)]
    return found


@pytest.mark.long
async def test_a_canary_of_2000_requests_put_back_under_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path / "state", monkeypatch, instances=2) as cluster:
        await cluster.settled(2)
        await _versions(cluster, tmp_path, 2)
        assert await _put(cluster, {"medical@1": 90, "medical@2": 10}) == (
            200, {"name": "medical", "now": {"sides": {"medical@1": 90, "medical@2": 10}, "shadow": False}},
        )  # fmt: skip
        await _held(cluster, "medical", "medical@1", "medical@2")
        assert Counter(await _asked(cluster, 2000)) == {200: 2000}
        sides = Counter(model for engine in cluster.engines.engines for model, prompt in engine.asked if prompt == "x")
        assert abs(sides["medical@2"] / 2000 - 0.1) <= 0.01 and sides.total() == 2000

        load = asyncio.create_task(_asked(cluster, 1000))
        await asyncio.sleep(0.05)
        status, answer = await cluster.post(f"{ALIAS}/undo", {})
        assert (status, answer["now"]) == (200, None)
        assert (await cluster.post(f"{ALIAS}/undo", {}))[1]["now"] is not None
        assert (await cluster.post(f"{ALIAS}/undo", {}))[1]["now"] is None
        assert Counter(await load) == {200: 1000}
        cluster.engine("instance_0").asked.clear()
        cluster.engine("instance_1").asked.clear()
        assert Counter(await _asked(cluster, 20)) == {200: 20}
        asked = {model for engine in cluster.engines.engines for model, prompt in engine.asked if prompt == "x"}
        assert asked == {"medical"}  # the adapter itself


async def test_what_an_alias_needs_is_kept_and_not_unloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(tmp_path / "state", monkeypatch, instances=1, keep_versions=2) as cluster:
        await cluster.settled(1)
        await _versions(cluster, tmp_path, 2)
        status, answer = await _put(cluster, {"medical@1": 1, "medical@9": 1})
        assert status == 404 and "no version 9; kept: 1, 2" in answer["error"]["message"]
        status, answer = await _put(cluster, {"medicla": 1})
        assert status == 404 and "did you mean 'medical'" in answer["error"]["message"]
        assert (await _put(cluster, {"medical@1": 1, "medical": 1}))[0] == 200
        await _versions(cluster, tmp_path / "more", 0)
        for number in (3, 4):
            await cluster.load("medical", make_adapter(tmp_path / f"v{number}", number), load_inplace=True)
        _, shown = await cluster.balancer.answer("GET", "/v1/lora_adapters/medical")
        assert [version["version"] for version in shown["versions"]] == [1, 3, 4]
        status, answer = await cluster.post("/v1/unload_lora_adapter", {"lora_name": "medical"})
        assert status == 409 and "medical@1" in answer["error"]["message"]
        assert await cluster.complete("medical@1") == 200
        assert (await _put(cluster, {"medical": 1}))[0] == 200
        status, answer = await cluster.post("/v1/unload_lora_adapter", {"lora_name": "medical"})
        assert status == 409 and "leads to 'medical': change or delete" in answer["error"]["message"]
        assert (await cluster.balancer.answer("DELETE", ALIAS, json={}))[0] == 200
        assert (await cluster.post("/v1/unload_lora_adapter", {"lora_name": "medical"}))[0] == 200


async def test_names_of_the_settings_and_those_that_were_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    routes = {"finance": {"rules": [{"keywords": ["账单"], "model": "m"}], "default": MODEL}}
    given = {"instances": 1, "routes": routes, "aliases": {"m": f"{MODEL}=1"}}
    async with running(tmp_path / "state", monkeypatch, **given) as cluster:
        await cluster.settled(1)
        assert await cluster.complete("finance") == 200 and await cluster.complete("auto") == 200
        _, aliases = await cluster.balancer.answer("GET", "/v1/cluster/aliases")
        assert aliases == {"aliases": {"m": {"sides": {MODEL: 1.0}, "shadow": False}}}
        _, found = await cluster.balancer.answer("GET", "/v1/cluster/routes")
        assert list(found["routes"]) == ["finance"]
        assert (await cluster.balancer.answer("DELETE", "/v1/cluster/routes/finance", json={}))[0] == 200
        assert await cluster.complete("finance") == 404
        assert (await cluster.post("/v1/cluster/routes/finance/undo", {}))[0] == 200
        assert await cluster.complete("finance") == 200
        assert (await cluster.post("/v1/cluster/routes/other/undo", {}))[0] == 404
        status, _ = await cluster.balancer.answer("PUT", "/v1/cluster/routes/x", json={"default": "none"})
        assert status == 404
        changed = {"routes": {"trade": {"default": MODEL}}}
        status, answer = await cluster.post("/v1/cluster/apply", {"settings": changed})
        assert (status, answer["changes"][0]["effect"]) == (202, "at once")
        assert await cluster.complete("trade") == 200 and await cluster.complete("finance") == 404
        assert (await _put(cluster, {MODEL: 1}))[0] == 200

    async with running(tmp_path / "state", monkeypatch, **given) as cluster:  # what was changed outlives it
        await cluster.settled(1)
        assert await cluster.complete("medical") == 200
        assert await cluster.complete("finance") == 200
