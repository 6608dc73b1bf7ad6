"""Models are loaded, unloaded, pinned, brought up and down over the management API; what cannot be leaves nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from cluster.adapters.intake import Intake
from cluster.api.models import LoadModel
from cluster.models import swapping
from config.identity.principal import PRINCIPAL_HEADER, Principal, Scope
from inprocess import InProcess, running, until
from worker.demo import adapter_path

Start = Callable[..., Any]

ADAPTER = str(adapter_path("pirate"))


class Managed:
    """Over the supervisor's own socket."""

    def __init__(self, cluster: InProcess, session: aiohttp.ClientSession) -> None:
        self.cluster, self.parts, self._session = cluster, cluster.parts, session

    async def ask(self, method: str, path: str, body: Any = None, who: Principal | None = None) -> tuple[int, Any]:
        headers = {} if who is None else {PRINCIPAL_HEADER: who.line()}
        async with self._session.request(method, f"http://x{path}", json=body, headers=headers) as response:
            return response.status, json.loads(await response.text())

    async def load(self, name: str, path: str = "demo", **more: Any) -> tuple[int, Any]:
        return await self.ask("POST", "/v1/models/load", {"model_name": name, "model_path": path, **more})

    async def cards(self) -> dict[str, dict[str, Any]]:
        status, found = await self.ask("GET", "/v1/cluster/models")
        assert status == 200
        return {card["name"]: card for card in found["models"]}

    async def reaches(self, **states: str) -> None:
        async def seen() -> bool:
            cards = await self.cards()
            return all((cards[name]["state"] if name in cards else "gone") == state for name, state in states.items())

        await until(seen)

    def nothing_left_of(self, name: str) -> bool:
        parts, registry = self.parts, self.parts.inventory.registry.adapters.values()
        known = {*parts.revisions.plans, *parts.fleet.intent.desired.groups, *(one.group for one in registry)}
        return name not in known and not [i for i in parts.fleet.instances if i.startswith(f"{name}/")]


@pytest.fixture
async def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    monkeypatch.setattr(swapping, "EVERY", 0.02)

    @asynccontextmanager
    async def made(**settings: Any) -> AsyncIterator[Managed]:
        async with running(tmp_path / "state", monkeypatch, **settings) as cluster:
            socket = aiohttp.UnixConnector(str(cluster.parts.state.control))
            async with aiohttp.ClientSession(connector=socket) as session:
                yield Managed(cluster, session)

    return made


async def test_a_model_that_a_route_or_an_alias_leads_to_is_not_unloaded(start: Start) -> None:
    """Nor one of whose adapters that is so: who asks by that name would be told that there is no such model."""
    async with start(instances=1) as cluster:
        assert (await cluster.load("second", adapters={"sea": ADAPTER}))[0] == 202
        for kind, what in (("aliases", "second"), ("aliases", "sea"), ("routes", "second")):
            named = {"sides": {what: 1}} if kind == "aliases" else {"rules": [], "default": what}
            assert (await cluster.ask("PUT", f"/v1/cluster/{kind}/short", named))[0] == 200
            status, answer = await cluster.ask("DELETE", "/v1/models/second")
            assert status == 409 and f"'short' leads to '{what}': change or delete" in answer["error"]["message"]
            assert (await cluster.ask("DELETE", f"/v1/cluster/{kind}/short", {}))[0] == 200
        assert (await cluster.ask("DELETE", "/v1/models/second"))[0] == 202


async def test_an_adapter_that_is_fetched_while_its_model_is_unloaded_is_refused(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is not registered for ever with a model that nobody has."""
    fetching, go = asyncio.Event(), asyncio.Event()

    async def fetched(self: Intake, text: str) -> Path:
        fetching.set()
        await go.wait()
        return Path(text)

    async with start(instances=1) as cluster:
        assert (await cluster.load("second"))[0] == 202
        monkeypatch.setattr(Intake, "located", fetched)
        body = {"lora_name": "sea", "lora_path": ADAPTER, "model": "second"}
        loading = asyncio.create_task(cluster.ask("POST", "/v1/load_lora_adapter", body))
        await fetching.wait()
        assert (await cluster.ask("DELETE", "/v1/models/second"))[0] == 202
        go.set()
        status, answer = await loading
        assert status == 409 and "'second' has been unloaded meanwhile" in answer["error"]["message"]
        assert "sea" not in cluster.parts.inventory.registry.adapters


async def test_the_same_by_its_name_in_a_manifest_is_there_already(start: Start, tmp_path: Path) -> None:
    manifest = tmp_path / "models.yaml"
    manifest.write_text("models: {tiny: {path: demo}, far: {path: 'hf://org/far'}}")
    async with start(instances=1, manifest=str(manifest)) as cluster:
        assert [(await cluster.load("second", "tiny"))[0] for _ in range(2)] == [202, 200]
        far = LoadModel(model_name="third", model_path="far")
        assert (await cluster.parts.model_commands.intended(far)).lasts, "what it stands for is fetched"


async def test_a_model_comes_and_goes_while_the_cluster_runs(start: Start) -> None:
    async with start(model="org/m") as cluster:
        await cluster.cluster.settled(1)
        assert await cluster.cards() == {}, "one model"
        status, answer = await cluster.load("b", instances=2, served_names=["b2"], adapters={"mine": ADAPTER})
        assert status == 202 and answer["model"]["name"] == "b", answer
        await cluster.reaches(b="up")
        await cluster.cluster.settled(3)
        assert [await cluster.cluster.complete(name) for name in ("b", "b2", "mine", "org/m")] == [200] * 4
        cards = await cluster.cards()
        assert (cards["b"]["ready"], cards["b"]["swaps"], cards["org/m"]["is_default"]) == (2, 1, True)
        assert (await cluster.cluster.status())["models"][1]["name"] == "b"
        assert (await cluster.load("b", instances=2, served_names=["b2"], adapters={"mine": ADAPTER}))[0] == 200
        status, answer = await cluster.ask("DELETE", "/v1/models/b")
        assert (status, answer["state"], answer["adapters"]) == (202, "stopping", ["mine"])
        await until(lambda: _true(cluster.nothing_left_of("b")))
        assert await cluster.cards() == {} and await cluster.cluster.complete("org/m") == 200
        assert (await cluster.load("b"))[0] == 202, "and again"


async def _true(value: bool) -> bool:
    return value


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"model_name": "a/b", "model_path": "demo"}, 400, "is no name of a model"),
        ({"model_name": "default", "model_path": "demo"}, 400, "is no name of a model"),
        ({"model_name": "b"}, 400, "model_path"),
        ({"model_name": "b", "model_path": "./here"}, 400, "is no absolute path"),
        ({"model_name": "b", "model_path": "/none/such"}, 409, "model b: path /none/such: no such file or folder"),
        ({"model_name": "b", "model_path": "demo", "engine": "vlm"}, 400, "did you mean 'vllm'?"),
        ({"model_name": "b", "model_path": "demo", "instnces": 2}, 400, "did you mean 'instances'?"),
        ({"model_name": "b", "model_path": "demo", "instances": 0}, 400, "instances"),
        ({"model_name": "b", "model_path": "demo", "gpus": "0"}, 409, "can use no GPU here"),
        ({"model_name": "b", "model_path": "demo", "args": "--port 1"}, 400, "--port is set by the cluster itself"),
        ({"model_name": "b", "model_path": "demo", "adapters": {"x": "/none"}}, 409, "x: no folder /none"),
        ({"model_name": "b", "model_path": "demo", "adapters": {"x": "BROKEN"}}, 404, "holds no adapter_model"),
        ({"model_name": "there", "model_path": "demo"}, 409, "model 'there' is there with other settings"),
        ({"model_name": "short", "model_path": "demo"}, 409, "'short' is the name of a route or an alias already"),
        ({"model_name": "mine", "model_path": "demo"}, 409, "'mine' is the name of an adapter already"),
        ({"model_name": "b", "model_path": "demo", "served_names": "there"}, 409, "name of model 'there' already"),
        ({"model_name": "b", "model_path": "demo", "adapters": {"mine": ADAPTER}}, 409, "name of an adapter already"),
    ],
)
async def test_what_cannot_be_is_said_in_a_line_and_nothing_is_left(
    start: Start, tmp_path: Path, body: dict[str, Any], status: int, says: str
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "adapter_config.json").write_text('{"r": 8, "peft_type": "LORA"}')
    if "adapters" in body:
        body = {**body, "adapters": {k: v.replace("BROKEN", str(broken)) for k, v in body["adapters"].items()}}
    models = {"there": {"path": "demo", "instances": 2, "adapters": {"mine": ADAPTER}}}
    async with start(models=models, aliases={"short": "there=1"}) as cluster:
        before = await cluster.cards()
        got, answer = await cluster.ask("POST", "/v1/models/load", body)
        assert got == status and says in answer["error"]["message"], answer
        assert "\n" not in answer["error"]["message"]
        assert (await cluster.cards() == before and cluster.nothing_left_of(body["model_name"])) or before


async def test_pinned_brought_down_and_up_by_hand(start: Start) -> None:
    async with start(models={"a": "demo", "b": "demo", "c": "demo"}, max_concurrent_models=2) as cluster:
        assert (await cluster.ask("POST", "/v1/models/a/wake"))[0] == 202
        await cluster.reaches(a="up")
        assert (await cluster.ask("POST", "/v1/models/a/pin"))[1]["model"]["pinned"] is True
        status, answer = await cluster.ask("POST", "/v1/models/a/sleep")
        assert status == 409 and "unpin it first" in answer["error"]["message"]
        assert (await cluster.ask("POST", "/v1/models/b/pin"))[0] == 200
        await cluster.reaches(b="up")
        status, answer = await cluster.ask("POST", "/v1/models/c/pin")
        assert status == 409 and "no room for 'c' beside a, b" in answer["error"]["message"]
        assert (await cluster.ask("POST", "/v1/models/a/unpin"))[1]["model"]["pinned"] is False
        assert (await cluster.ask("POST", "/v1/models/a/sleep"))[0] == 202
        await cluster.reaches(a="down", b="up")
        for verb in ("pin", "unpin", "sleep", "wake"):
            assert (await cluster.ask("POST", f"/v1/models/nobody/{verb}"))[0] == 404
        assert (await cluster.ask("DELETE", "/v1/models/nobody"))[0] == 404


async def test_the_model_of_the_start_is_left_alone(start: Start) -> None:
    async with start(model="org/m", models={"a": "demo"}) as cluster:
        await cluster.cluster.settled(1)
        for method, path in (("DELETE", "/v1/models/org%2Fm"), ("POST", "/v1/models/org%2Fm/sleep")):
            status, answer = await cluster.ask(method, path)
            assert status == 409 and "is what the cluster was started with" in answer["error"]["message"]


async def test_who_may(start: Start) -> None:
    async with start(models={"a": "demo"}) as cluster:
        admin, reader = (Principal(str(scope), frozenset({scope})) for scope in (Scope.ADMIN, Scope.READ))
        body = {"model_name": "b", "model_path": "demo"}
        assert (await cluster.ask("POST", "/v1/models/load", body, admin))[0] == 403
        assert (await cluster.ask("POST", "/v1/models/a/pin", None, admin))[0] == 200
        assert (await cluster.ask("DELETE", "/v1/models/a", None, reader))[0] == 403
        assert (await cluster.ask("GET", "/v1/cluster/models", None, reader))[0] == 200
        _, audit = await cluster.ask("GET", "/v1/cluster/audit")
        rows = {(row["path"], row["status"]): row["changed"] for row in audit["entries"]}
        assert rows["/v1/models/a/pin", 200][0]["what"] == "model a" and rows["/v1/models/load", 403] == []


async def test_commands_name_the_model_where_there_are_several(start: Start) -> None:
    models = {name: {"path": "demo", "on_demand": False, "max": 3} for name in "ab"}
    async with start(models={**models, "c": "demo"}) as cluster:
        await cluster.cluster.settled(2)
        for path, body in (("scale", {"instances": 2}), ("restart", {"rolling": True})):
            status, answer = await cluster.ask("POST", f"/v1/cluster/{path}", body)
            assert status == 409 and '"model" is one of a, b, c (--model NAME' in answer["error"]["message"]
            assert (await cluster.ask("POST", f"/v1/cluster/{path}", {**body, "model": "d"}))[0] == 404
        assert (await cluster.ask("POST", "/v1/cluster/scale", {"instances": 2, "model": "c"}))[0] == 409, "not up"
        assert (await cluster.ask("POST", "/v1/cluster/scale", {"instances": 4, "model": "a"}))[0] == 409
        assert (await cluster.ask("POST", "/v1/cluster/scale", {"instances": 2, "model": "a"}))[0] == 202
        await cluster.cluster.settled(3)
        assert set(cluster.parts.fleet.instances) == {"a/instance_0", "a/instance_1", "b/instance_0"}
        status, answer = await cluster.ask("POST", "/v1/cluster/restart", {"rolling": True, "model": "b"})
        assert (status, answer["restarting"]) == (202, ["b/instance_0"])
        await cluster.cluster.back("b/instance_0", 2)
        assert cluster.cluster.started("a/instance_0") == 1
        assert (await cluster.ask("POST", "/v1/cluster/strategy", {"strategy": "random", "model": "a"}))[0] == 200
        told = {model.name: model.strategy for model in cluster.parts.offers.every()}
        assert told == {"a": "random", "b": "", "c": ""} and cluster.parts.fleet.intent.strategy != "random"
        path = "/v1/cluster/instances/a%2Finstance_0/drain"
        assert (await cluster.ask("POST", path, {}))[0] == 202
