"""`POST /v1/chat/{route}` in front of workers that stream what they are told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from config.identity.api_keys import ApiKey, Digest, mint
from config.model_names import route
from fakes import soon
from lbfakes import Balanced, Worker, running_balancer, running_worker

FINANCE = route(
    {
        "rules": [
            {"keywords": ["账单", "消费", "支出"], "model": "expert-a"},
            {"keywords": ["理财", "投资", "基金"], "model": "expert-b"},
        ],
        "default": "base",
    }
).to_json()
MODELS = ("base", "expert-a", "expert-b")


def _event(text: str | None, end: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": end}
    return b"data: " + json.dumps({"id": "x", "choices": [choice]}).encode() + b"\n\n"


async def _streams(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    assert request.path == "/v1/chat/completions" and body["stream"] is True
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
    await response.prepare(request)
    for text in ("你", "好", body["model"]):
        await response.write(_event(text))
        await asyncio.sleep(0)
    await response.write(_event("", "stop") + b"data: [DONE]\n\n")
    return response


@asynccontextmanager
async def _balanced(folder: Path, answer: Any = _streams) -> AsyncIterator[tuple[Balanced, Worker]]:
    async with running_balancer(folder) as balancer, running_worker("instance_0", answer) as worker:
        balancer.push(worker.spec(models=MODELS), names={"finance": FINANCE})
        yield balancer, worker


def _lines(text: str) -> list[dict[str, Any]]:
    assert text.endswith("\n\n")
    return [json.loads(line.removeprefix("data: ")) for line in text.removesuffix("\n\n").split("\n\n")]


async def _chat(balancer: Balanced, name: str = "finance", **body: Any) -> tuple[int, Any, Any]:
    async with balancer.request("POST", f"/v1/chat/{name}", json=body) as response:
        text = await response.text()
        return response.status, response.headers, _lines(text) if response.status == 200 else json.loads(text)


@pytest.mark.parametrize(
    ("body", "model"),
    [
        ({"prompt": "我的账单"}, "expert-a"), ({"prompt": "基金好吗"}, "expert-b"), ({"prompt": "你好"}, "base"),
        ({"prompt": "我的账单", "expert_id": "expert-b"}, "expert-b"), ({"prompt": "x", "expert_id": None}, "base"),
    ],
)  # fmt: skip
async def test_the_text_comes_as_it_is_made(tmp_path: Path, body: dict[str, Any], model: str) -> None:
    async with _balanced(tmp_path) as (balancer, worker):
        status, headers, lines = await _chat(balancer, max_tokens=5, temperature=0.5, **body)
        assert (status, headers["Content-Type"]) == (200, "text/event-stream; charset=utf-8")
        assert ("x-routed-model" in headers) == (body.get("expert_id") is None)
        assert [line["text_delta"] for line in lines] == ["你", "好", model, ""]
        assert [line["finished"] for line in lines] == [False, False, False, True]
        asked = json.loads(worker.seen[-1].body)
        assert (asked["model"], asked["max_tokens"], asked["temperature"]) == (model, 5, 0.5)
        assert asked["messages"] == [{"role": "user", "content": body["prompt"]}]
        assert (await _chat(balancer, "auto", prompt="投资"))[2][2]["text_delta"] == "expert-b"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"), ({"prompt": 5}, "prompt"), ({"prompt": None}, "prompt"), ({"prompt": "x", "n": 2}, "n"),
        ({"prompt": "x", "max_tokens": "5"}, "max_tokens"), ({"prompt": "x", "temperature": True}, "temperature"),
        ({"prompt": "x", "expert_id": "nobody"}, "model"),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_said(tmp_path: Path, body: dict[str, Any], param: str) -> None:
    async with _balanced(tmp_path) as (balancer, worker):
        status, _, answer = await _chat(balancer, **body)
        assert status in (400, 404) and answer["error"]["param"] == param
        async with balancer.request("POST", "/v1/chat/finance", data=b"[") as response:
            assert response.status == 400
        assert (await _chat(balancer, "nobody", prompt="x"))[0] == 404
        assert (await balancer.answer("GET", "/v1/chat/finance"))[0] == 405
        assert worker.seen == []


async def test_a_refusal_of_the_worker_is_the_answer(tmp_path: Path) -> None:
    async def refuses(request: web.Request) -> web.StreamResponse:
        await request.read()
        return web.json_response({"error": {"message": "too long", "code": 400}}, status=400)

    async with _balanced(tmp_path, refuses) as (balancer, _):
        status, _, answer = await _chat(balancer, prompt="x")
        assert (status, answer["error"]["message"]) == (400, "too long")


async def test_a_client_that_leaves_ends_it(tmp_path: Path) -> None:
    hold = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(_event("a"))
        await hold.wait()
        return response

    async with _balanced(tmp_path, slow) as (balancer, worker):
        response = await balancer.request("POST", "/v1/chat/finance", json={"prompt": "x"}).__aenter__()
        assert await response.content.readuntil(b"\n\n")
        assert balancer.in_flight == 1
        response.connection.transport.abort()
        await soon(lambda: balancer.in_flight == 0)
        await soon(lambda: worker.open == 0)


async def test_a_stream_that_breaks_is_not_taken_for_complete(tmp_path: Path) -> None:
    async def breaks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(_event("a"))
        assert request.transport is not None
        request.transport.close()
        return response

    async with _balanced(tmp_path, breaks) as (balancer, _):
        answer = await balancer.raw(
            b'POST /v1/chat/finance HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n'
            b'{"prompt":"x"}'
        )
        assert b'"text_delta": "a"' in answer and b'"error"' in answer and b'"finished": true' not in answer
        assert not answer.endswith(b"0\r\n\r\n")


async def test_of_http_1_0_the_end_is_the_end_of_the_connection(tmp_path: Path) -> None:
    async with _balanced(tmp_path) as (balancer, _):
        answer = await balancer.raw(
            b'POST /v1/chat/finance HTTP/1.0\r\nHost: x\r\nContent-Length: 14\r\n\r\n{"prompt":"x"}'
        )
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"Transfer-Encoding" not in head and b"Connection: close" in head
        assert _lines(body.decode())[-1] == {"text_delta": "", "finished": True}


async def test_a_key_is_needed_and_bound_here_too(tmp_path: Path) -> None:
    async with _balanced(tmp_path) as (balancer, _):
        secret, digest = mint()
        key = ApiKey("k", digests=(Digest(digest),), models=("base",)).to_json()
        balancer.parts.keys.apply({"version": [1, 1], "keyed": True, "keys": [key]})
        assert (await _chat(balancer, prompt="账单"))[0] == 401
        headers = {"Authorization": f"Bearer {secret}"}
        for body, status in (({"prompt": "账单"}, 200), ({"prompt": "x", "expert_id": "expert-a"}, 404)):
            async with balancer.request("POST", "/v1/chat/finance", json=body, headers=headers) as response:
                assert response.status == status
                if status == 200:
                    assert response.headers["x-routed-model"] == "base"


async def test_metrics_and_the_log_show_the_path_that_was_asked(tmp_path: Path) -> None:
    """One label for all routes of models: their names are others' to choose."""
    async with _balanced(tmp_path) as (balancer, _):
        assert (await _chat(balancer, prompt="x"))[0] == 200
        (found,) = await _why(balancer)
        assert found["route"] == "/v1/chat/finance"
        labels = {"instance": "instance_0", "code": "200"}
        name = "clusterctl_requests_total"
        assert balancer.metric(name, route="/v1/chat/{route}", **labels) == 1
        assert balancer.metric(name, route="/v1/chat/completions", **labels) is None
        async with balancer.request("POST", "/v1/chat/completions", json={
            "model": "base", "stream": True, "messages": [{"role": "user", "content": "x"}]
        }) as response:  # fmt: skip
            await response.read()
        assert balancer.metric(name, route="/v1/chat/completions", **labels) == 1


async def _why(balancer: Balanced) -> list[dict[str, Any]]:
    status, answer = await balancer.answer("GET", "/v1/cluster/why")
    assert status == 200, answer
    return list(answer["decisions"])
