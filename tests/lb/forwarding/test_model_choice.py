"""Routes and aliases in front of workers that say which model they were asked for."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from config.identity.api_keys import ApiKey, Digest, mint
from config.model_names import alias, route
from config.topology import OfferedModel
from fakes import soon
from lbfakes import Balanced, Worker, running_balancer, running_worker

MODELS = ("base", "expert-a", "expert-b")
FINANCE = route(
    {
        "rules": [
            {"keywords": ["账单", "bill"], "model": "expert-a"}, {"keywords": ["理财"], "model": "split"},
        ],
        "default": "base",
    }
).to_json()  # fmt: skip
NAMES = {"finance": FINANCE, "split": alias("expert-a=90,expert-b=10").to_json(), "base": alias("base").to_json()}


async def _says_model(request: web.Request) -> web.StreamResponse:
    return web.json_response({"model": (await request.json())["model"]})


@asynccontextmanager
async def _balanced(folder: Path, names: dict[str, Any], **fields: Any) -> AsyncIterator[tuple[Balanced, Worker]]:
    async with running_balancer(folder) as balancer, running_worker("instance_0", _says_model) as worker:
        balancer.push(worker.spec(models=MODELS, **fields), names=names)
        yield balancer, worker


def _turn(text: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}]}


async def test_a_route_asks_the_model_of_the_first_rule_that_fits(tmp_path: Path) -> None:
    async with _balanced(tmp_path, NAMES) as (balancer, _):
        for asked in ("finance", "auto"):
            for text, model in (("我的账单", "expert-a"), ("Bill?", "expert-a"), ("hello", "base")):
                async with balancer.generate("/v1/chat/completions", asked, **_turn(text)) as response:
                    assert response.headers["x-routed-model"] == model
                    assert await response.json() == {"model": model}
        async with balancer.generate("/v1/responses", "finance", input="账单") as response:
            assert await response.json() == {"model": "expert-a"}
        _, models = await balancer.answer("GET", "/v1/models")
        assert {"finance", "auto", "split", "expert-a"} <= {card["id"] for card in models["data"]}
        assert balancer.metric("clusterctl_model_choices_total", asked="finance", model="base") == 1
        _, why = await balancer.answer("GET", "/v1/cluster/why?limit=1")
        assert why["decisions"][0]["asked"] == "finance"
        assert why["decisions"][0]["model_chosen"] == "rule 1, keyword '账单'"
        assert why["decisions"][0]["model"] == "expert-a"


async def test_a_route_may_lead_to_an_alias_and_an_alias_to_the_model_of_its_name(tmp_path: Path) -> None:
    async with _balanced(tmp_path, NAMES) as (balancer, _):
        status, answer = await balancer.ask("/v1/chat/completions", model="finance", user="user-1", **_turn("理财"))
        assert (status, answer["model"]) in ((200, "expert-a"), (200, "expert-b"))
        assert await balancer.ask(model="base") == (200, {"model": "base"})


async def test_without_routes_auto_is_a_model_that_does_not_exist(tmp_path: Path) -> None:
    async with _balanced(tmp_path, {}) as (balancer, _):
        status, answer = await balancer.ask(model="auto")
        assert (status, answer["error"]["param"]) == (404, "model")
        async with balancer.generate(model="expert-a") as response:
            assert "x-routed-model" not in response.headers


async def test_two_routes_and_none_is_named_auto(tmp_path: Path) -> None:
    async with _balanced(tmp_path, {"one": FINANCE, "two": FINANCE}) as (balancer, _):
        assert (await balancer.ask(model="auto"))[0] == 404
        assert (await balancer.ask(model="two"))[0] == 200


async def test_of_2000_users_a_tenth_gets_the_canary_and_each_stays_with_it(tmp_path: Path) -> None:
    async with _balanced(tmp_path, NAMES) as (balancer, _):
        users = [f"user-{number}" for number in range(2000)]
        first = [(await balancer.ask(model="split", user=user))[1]["model"] for user in users]
        share = Counter(first)["expert-b"] / len(users)
        assert abs(share - 0.1) <= 0.01
        for user, model in list(zip(users, first, strict=True))[:100]:
            assert (await balancer.ask(model="split", user=user, prompt="something else"))[1]["model"] == model
        counted = balancer.metric("clusterctl_model_choices_total", asked="split", model="expert-b")
        assert counted == first.count("expert-b") + first[:100].count("expert-b")


async def test_a_conversation_stays_on_its_side(tmp_path: Path) -> None:
    async with _balanced(tmp_path, {"split": alias("expert-a=50,expert-b=50").to_json()}) as (balancer, _):
        chosen = set()
        for number in range(20):
            turns, models = [{"role": "user", "content": f"question {number}"}], set()
            for _ in range(3):
                models.add((await balancer.ask("/v1/chat/completions", model="split", messages=turns))[1]["model"])
                turns = [*turns, {"role": "assistant", "content": "a"}, {"role": "user", "content": "more"}]
            assert len(models) == 1
            chosen |= models
        assert chosen == {"expert-a", "expert-b"}


async def test_a_side_that_does_not_exist_is_said(tmp_path: Path) -> None:
    async with _balanced(tmp_path, {"split": alias("medical@3").to_json()}) as (balancer, _):
        status, answer = await balancer.ask(model="split")
        assert status == 404 and "`medical@3`, which does not exist" in answer["error"]["message"]


async def test_a_side_that_is_down_is_waited_for_like_any_model(tmp_path: Path) -> None:
    """Whether it was an alias, a route or the request itself that named it."""
    on_demand = route({"rules": [{"keywords": ["bill"], "model": "base"}], "default": "small"}).to_json()
    names = {"either": alias("small").to_json(), "chosen": on_demand}

    def offer(state: str) -> tuple[OfferedModel, ...]:
        return (OfferedModel("small", ("small",), "small", state, 30.0),)

    async with running_balancer(tmp_path) as balancer, running_worker("instance_0", _says_model) as worker:
        balancer.push(names=names, models=offer("down"))
        asked = [asyncio.create_task(balancer.ask(model=name)) for name in ("small", "either", "chosen")]
        await soon(lambda: balancer.metric("clusterctl_queued_requests") == 3)
        balancer.push(worker.spec(models=("small",), group="small"), names=names, models=offer("up"))
        assert await asyncio.gather(*asked) == [(200, {"model": "small"})] * 3


async def test_a_key_is_only_routed_to_what_it_may_ask(tmp_path: Path) -> None:
    async with _balanced(tmp_path, NAMES) as (balancer, _):
        cases: list[tuple[tuple[str, ...], str, str, str | None]] = [
            (("base",), "finance", "账单", "base"),
            (("base", "expert-a"), "finance", "账单", "expert-a"),
            (("expert-a",), "finance", "hello", None),
            (("expert-b",), "split", "", "expert-b"),
            (("split",), "split", "", "either"),
            (("base",), "split", "", None),
        ]
        for number, (models, asked, text, expected) in enumerate(cases):
            secret, digest = mint()
            key = ApiKey("k", digests=(Digest(digest),), models=models).to_json()
            balancer.parts.keys.apply({"version": [1, number + 1], "keyed": True, "keys": [key]})
            headers = {"Authorization": f"Bearer {secret}"}
            async with balancer.request(
                "POST", "/v1/chat/completions", json={"model": asked, **_turn(text)}, headers=headers
            ) as response:
                answer = await response.json()
                if expected is None:
                    assert response.status == 404 and f"`{asked}`" in answer["error"]["message"]
                else:
                    assert response.status == 200, answer
                    assert answer["model"] == expected or (expected == "either" and answer["model"] in MODELS)


async def test_a_copy_goes_to_the_shadow_where_there_is_room_and_is_given_up_where_a_request_waits(
    tmp_path: Path,
) -> None:
    hold = asyncio.Event()
    asked: list[str] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        model = (await request.json())["model"]
        asked.append(model)
        if model == "expert-b":
            await hold.wait()
        return web.json_response({"model": model})

    names = {"split": alias({"sides": {"expert-a": 1, "expert-b": 0}, "shadow": True}).to_json()}
    async with running_balancer(tmp_path) as balancer, running_worker("instance_0", answer) as worker:
        balancer.push(worker.spec(models=MODELS), names=names)
        assert await balancer.ask(model="split") == (200, {"model": "expert-a"})  # it does not wait for its shadow
        await soon(lambda: asked == ["expert-a", "expert-b"])
        hold.set()
        labels = {"asked": "split", "model": "expert-b"}
        count = "clusterctl_shadow_requests_total"
        await soon(lambda: balancer.metric(count, **labels, outcome="200") == 1)
        assert balancer.metric("clusterctl_shadow_seconds_count", **labels) == 1
        hold.clear()

        balancer.push(worker.spec(models=MODELS, seats=4), names=names)  # takes 6
        assert (await balancer.ask(model="split"))[0] == 200
        await soon(lambda: asked[-1] == "expert-b")
        long = [asyncio.create_task(balancer.ask(model="expert-b")) for _ in range(6)]
        await soon(lambda: balancer.metric(count, **labels, outcome="given up") == 1)
        await soon(lambda: balancer.in_flight == 6)
        assert (await asyncio.wait_for(asyncio.gather(_let(hold), *long), 5))[1] == (200, {"model": "expert-b"})


async def _let(hold: asyncio.Event) -> None:
    hold.set()


async def test_the_choice_is_in_the_access_log(tmp_path: Path) -> None:
    path = tmp_path / "logs" / "access.log"
    path.parent.mkdir()
    async with running_balancer(tmp_path, access_log="on", log_format="json") as balancer:
        async with running_worker("instance_0", _says_model) as worker:
            balancer.push(worker.spec(models=MODELS), names=NAMES)
            assert (await balancer.ask("/v1/chat/completions", model="finance", **_turn("账单")))[0] == 200
            await soon(lambda: path.exists() and path.read_text())
            line = json.loads(path.read_text())
            assert "finance" in json.dumps(line) and "keyword" in json.dumps(line)
