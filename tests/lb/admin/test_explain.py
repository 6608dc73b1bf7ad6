"""Why a request went where it went: recorded while it is served, told when somebody asks."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from config.topology import BalancerConfig, OfferedModel
from fakes import soon
from lb import app
from lb.admin.openapi.schemas import SCHEMAS
from lb.records.decision_log import KEPT
from lbfakes import Balanced, closed_port, listening, running_balancer, running_worker, spec

USAGE = {"usage": {"prompt_tokens": 3, "total_tokens": 8, "completion_tokens": 5}}


async def _answer(request: web.Request) -> web.Response:
    return web.json_response({"choices": [{"text": "x"}], **USAGE})


@pytest.fixture
async def balanced(tmp_path: Path) -> AsyncIterator[Balanced]:
    (tmp_path / "logs").mkdir()
    async with running_balancer(tmp_path) as made:
        yield made


async def _why(balanced: Balanced, query: str = "") -> tuple[int, Any]:
    status, answer = await balanced.answer("GET", f"/v1/cluster/why{query}")
    return status, answer.get("decisions", answer)


async def _generate(balanced: Balanced, id: str, **fields: Any) -> int:
    async with balanced.generate(**fields) if not id else balanced.request(
        "POST", "/v1/completions", json={"model": "base", "prompt": "x", **fields}, headers={"X-Request-Id": id}
    ) as response:
        await response.read()
        assert response.headers["X-Request-Id"] == id or not id
        return int(response.status)


async def test_one_that_went_well(balanced: Balanced) -> None:
    async with running_worker("instance_0", _answer) as zero, running_worker("instance_1", _answer) as one:
        balanced.push(zero.spec(), one.spec(), strategy="least_connections")
        assert await _generate(balanced, "mine") == 200
    status, (found,) = await _why(balanced, "?request_id=mine")
    assert status == 200
    (attempt,) = found["attempts"]
    assert (found["request_id"], found["model"], found["route"]) == ("mine", "base", "/v1/completions")
    assert attempt["strategy"] == "least_connections"
    assert attempt["candidates"] == [{"instance": "instance_0", "score": 0}, {"instance": "instance_1", "score": 0}]
    assert attempt["instance"] in ("instance_0", "instance_1")
    assert "fewest requests" in attempt["reason"] and attempt["scored_by"] == "requests in flight"
    outcome = found["outcome"]
    assert (outcome["status"], outcome["error"], outcome["completion_tokens"]) == (200, None, 5)
    assert 0 <= attempt["began_s"] <= outcome["time_to_first_token_s"] <= outcome["duration_s"] < 5
    assert set(attempt) <= set(SCHEMAS["Attempt"]["properties"])


async def test_of_the_chosen_one_and_the_next_best_it_is_told_what_their_cost_is_made_of(balanced: Balanced) -> None:
    async with running_worker("instance_0", _answer) as zero, running_worker("instance_1", _answer) as one:
        third = replace(zero.spec(), id="instance_2")
        balanced.push(zero.spec(), one.spec(), third, strategy="adaptive")
        assert await _generate(balanced, "mine") == 200
    _, (found,) = await _why(balanced, "?request_id=mine")
    (attempt,) = found["attempts"]
    told = {one["instance"]: one for one in attempt["candidates"]}
    explained = {name: one["terms"] for name, one in told.items() if "terms" in one}
    assert len(told) == 3 and len(explained) == 2 and attempt["instance"] in explained
    for name, terms in explained.items():
        assert set(terms) == {"prompts", "adapter", "slot", "others", "steps"}
        assert told[name]["score"] == pytest.approx(sum(terms.values())), "no slot is waited for, and none is its home"
    (schema,) = [SCHEMAS["Attempt"]["properties"]["candidates"]["items"]["properties"]]
    assert all(set(one) <= set(schema) for one in attempt["candidates"])


async def test_the_only_one_and_the_one_that_failed_before_it(balanced: Balanced) -> None:
    async with running_worker("instance_1", _answer) as one:
        dead = spec("instance_0", closed_port())
        balanced.push(dead, one.spec(), strategy="round_robin")
        assert await _generate(balanced, "again") == 200
        _, (found,) = await _why(balanced, "?request_id=again")
        first, second = found["attempts"]
        assert (first["instance"], first["cause"], first["strategy"]) == ("instance_0", "connect", "round_robin")
        assert first["failed"] and first["ended_s"] >= first["began_s"]
        assert set(first) <= set(SCHEMAS["Attempt"]["properties"])
        assert (second["instance"], second["reason"]) == ("instance_1", "the only available candidate")
        assert "failed" not in second
        assert found["outcome"]["status"] == 200


async def test_one_that_is_under_way_or_waits_for_a_worker(balanced: Balanced) -> None:
    go = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        await go.wait()
        return await _answer(request)

    async with running_worker("instance_0", slow) as worker:
        balanced.push(worker.spec(state="starting"))
        task = asyncio.create_task(_generate(balanced, "slow"))
        await soon(lambda: balanced.metric("clusterctl_queued_requests") == 1)
        _, (waiting,) = await _why(balanced, "?request_id=slow")
        assert (waiting["attempts"], waiting["outcome"]) == ([], None)
        (stay,) = waiting["queued"]
        assert (stay["ahead"], stay["behind"]) == (0, None) and 0 <= stay["began_s"] < 1 and 0 < stay["waited_s"] < 10
        balanced.push(worker.spec())
        await soon(lambda: worker.open)
        _, (running,) = await _why(balanced, "?request_id=slow")
        assert ([a["instance"] for a in running["attempts"]], running["outcome"]) == (["instance_0"], None)
        assert running["attempts"][0]["began_s"] > 0
        go.set()
        assert await task == 200
        _, (over,) = await _why(balanced, "?request_id=slow")
        assert over["outcome"]["status"] == 200
        assert stay["waited_s"] <= over["queued"][0]["waited_s"] <= over["attempts"][0]["began_s"]


async def test_one_that_waits_for_a_model_says_so(balanced: Balanced) -> None:
    def offer(state: str) -> tuple[OfferedModel, ...]:
        return (OfferedModel("base", ("base",), "default", state, 30.0),)

    async with running_worker("instance_0", _answer) as worker:
        balanced.push(models=offer("down"))
        task = asyncio.create_task(_generate(balanced, "slow"))
        await soon(lambda: balanced.metric("clusterctl_queued_requests") == 1)
        balanced.push(worker.spec(), models=offer("up"))
        assert await task == 200
        _, (over,) = await _why(balanced, "?request_id=slow")
        assert [stay["model"] for stay in over["queued"]] == ["base"]
        assert set(over["queued"][0]) <= set(SCHEMAS["QueueStay"]["properties"])
        assert balanced.metric("clusterctl_model_wait_seconds_count", model="base") == 1


async def test_refusals_and_clients_that_went_away(balanced: Balanced) -> None:
    async def never(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with running_worker("instance_0", never) as worker:
        balanced.push(worker.spec())
        assert await _generate(balanced, "unknown", model="other") == 404
        task = asyncio.create_task(_generate(balanced, "left"))
        await soon(lambda: worker.open)
        task.cancel()
        await soon(lambda: not balanced.in_flight)
        _, (unknown,) = await _why(balanced, "?request_id=unknown")
        assert (unknown["outcome"]["status"], unknown["attempts"]) == (404, [])
        assert "does not exist" in unknown["outcome"]["error"]
        _, (left,) = await _why(balanced, "?request_id=left")
        assert (left["outcome"]["status"], left["attempts"][0]["instance"]) == (499, "instance_0")
        balanced.push(worker.spec(), shutting_down=True)
        assert await _generate(balanced, "late") == 503
        _, (late,) = await _why(balanced, "?request_id=late")
        assert late["outcome"]["error"] == "the cluster is shutting down"


async def test_the_last_ones_newest_first(balanced: Balanced) -> None:
    async with running_worker("instance_0", _answer) as worker:
        balanced.push(worker.spec())
        for number in range(25):
            assert await _generate(balanced, f"r{number}") == 200
    _, found = await _why(balanced)
    assert [one["request_id"] for one in found] == [f"r{number}" for number in range(24, 4, -1)]
    _, found = await _why(balanced, "?limit=2")
    assert [one["request_id"] for one in found] == ["r24", "r23"]
    assert len((await _why(balanced, "?limit=1000"))[1]) == 25


@pytest.mark.parametrize(
    ("query", "status", "word"),
    [("?request_id=nobody", 404, "nobody"), ("?limit=0", 400, "limit"), ("?limit=x", 400, "limit"),
     (f"?limit={KEPT + 1}", 400, "limit")],
)  # fmt: skip
async def test_what_cannot_be_told(balanced: Balanced, query: str, status: int, word: str) -> None:
    found, answer = await _why(balanced, query)
    assert (found, word in answer["error"]["message"]) == (status, True)


async def test_only_for_who_may_manage_the_cluster(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    async with running_balancer(tmp_path, admin_key="k") as balanced:
        assert (await balanced.answer("GET", "/v1/cluster/why"))[0] == 401
        allowed = await balanced.answer("GET", "/v1/cluster/why", headers={"Authorization": "Bearer k"})
        assert allowed == (200, {"decisions": []})
        assert (await balanced.answer("POST", "/v1/cluster/why", json={}, headers={"Authorization": "Bearer k"}))[
            0
        ] == 405


async def test_no_more_than_so_many_are_kept_and_no_body_of_any(balanced: Balanced) -> None:
    async def streamed(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        text = "x" * 300
        event = json.dumps({"choices": [{"text": text, "finish_reason": "stop"}]})
        await response.write(f"data: {event}\n\ndata: [DONE]\n\n".encode())
        return response

    async with running_worker("instance_0", streamed) as worker:
        balanced.push(worker.spec())
        for _ in range(3):
            await _generate(balanced, "", stream=True, filler="y" * 300)
            await _generate(balanced, "", filler="y" * 300)
    ring = balanced.parts.shared.decision_log.ring
    assert (len(ring), ring.maxlen) == (6, KEPT)
    seen: set[int] = set()
    todo: list[Any] = list(ring)
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, type) or type(one).__module__ == "lb.routing.backend":
            continue
        seen.add(id(one))
        assert not isinstance(one, bytes | bytearray), one[:80]
        assert not (isinstance(one, str) and len(one) > 200), one[:80]
        if not callable(one):
            todo += gc.get_referents(one)
    assert balanced.in_flight == 0


async def test_balancers_answer_for_each_other(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    async with AsyncExitStack() as exits:
        made: list[Balanced] = []
        for number in (1, 2):
            listener = exits.enter_context(listening())
            port = listener.getsockname()[1]
            config = BalancerConfig(
                listen_fd=listener.fileno(), state_dir=str(tmp_path), host="127.0.0.1", port=port, queue_timeout=5,
                processes=2,
            )  # fmt: skip
            link = tmp_path / f"lb-{number}.sock"
            parts = app.make(config, listener, link)
            await parts.start(listener)
            exits.push_async_callback(parts.close)
            session = await exits.enter_async_context(aiohttp.ClientSession())
            made.append(Balanced(parts, f"http://127.0.0.1:{port}", port, link, tmp_path, session))
        worker = await exits.enter_async_context(running_worker("instance_0", _answer))
        for number, one in enumerate(made):
            one.push(worker.spec())
            assert await _generate(one, f"of-{number}") == 200
        for one in made:
            for number in range(2):
                _, (found,) = await _why(one, f"?request_id=of-{number}")
                assert found["outcome"]["status"] == 200
            _, found = await _why(one)
            assert [each["request_id"] for each in found] == ["of-1", "of-0"]
            assert (await _why(one, "?request_id=of-3"))[0] == 404
            assert not one.parts.link.alive  # a balancer that asks is no supervisor


@pytest.mark.parametrize(
    "request_bytes",
    [b"GARBAGE\r\n\r\n", b"GET /v1/cluster/status HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
     b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
     b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"],
)  # fmt: skip
async def test_every_answer_says_which_request_it_is_to(balanced: Balanced, request_bytes: bytes) -> None:
    answer = await balanced.raw(request_bytes)
    assert answer.startswith(b"HTTP/1.1 4")
    assert answer.lower().count(b"x-request-id: ") == 1


async def test_a_refused_request_keeps_its_own_id(balanced: Balanced) -> None:
    answer = await balanced.raw(
        b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: mine\r\nConnection: close\r\n\r\n"
    )
    assert b"\r\nX-Request-Id: mine\r\n" in answer


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("finance", {"text": "我的账单"}, 200, {"model": "expert", "reason": "rule 1, keyword '账单'"}),
        ("auto", {"text": "hello"}, 200, {"model": "base", "reason": "no rule fits"}),
        ("base", {"text": "x"}, 404, "name"), ("split", {"text": "x"}, 404, "name"),
        ("finance", {"text": 5}, 400, "text"), ("finance", {"text": "x", "more": 1}, 400, "text"),
        ("finance", ["x"], 400, "text"),
    ],
)  # fmt: skip
async def test_a_route_is_tried_without_asking_a_model(
    balanced: Balanced, path: str, body: Any, status: int, said: Any
) -> None:
    routes = {
        "finance": {"rules": [{"model": "expert", "keywords": ["账单"]}], "default": "base"},
        "split": {"sides": {"base": 1.0}, "shadow": False},
    }
    balanced.push(spec("instance_0", closed_port()), names=routes)
    found, answer = await balanced.answer("POST", f"/v1/cluster/routes/{path}/test", json=body)
    assert (found, answer if found == 200 else answer["error"]["param"]) == (status, said)
    assert (await _why(balanced))[1] == []
