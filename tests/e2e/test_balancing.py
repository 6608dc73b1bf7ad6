"""Requests through the one URL, over real processes."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from typing import Any

import httpx
import pytest

from harness import Cluster, kill, poll, sse


def _requests(cluster: Cluster) -> dict[str, int]:
    return {name: i["requests_total"] for name, i in cluster.status()["instances"].items()}


async def _burst(cluster: Cluster, count: int, concurrency: int = 16, **body: Any) -> Counter[int]:
    gate = asyncio.Semaphore(concurrency)
    async with httpx.AsyncClient(timeout=30, limits=httpx.Limits(max_connections=concurrency)) as client:

        async def one() -> int:
            async with gate:
                request = {"model": "demo", "prompt": "hi", "max_tokens": 1, **body}
                return (await client.post(f"{cluster.url}/v1/completions", json=request)).status_code

        return Counter(await asyncio.gather(*(one() for _ in range(count))))


async def test_switching_the_strategy_under_load_drops_nothing(shared_sim: Cluster) -> None:
    load = asyncio.ensure_future(_burst(shared_sim, 400, itl_ms=1, max_tokens=8))
    for name in ("random", "weighted", "power_of_two", "round_robin", "response_time", "least_connections"):
        answer = await asyncio.to_thread(shared_sim.post, "/v1/cluster/strategy", {"strategy": name})
        assert answer.status_code == 200
        assert shared_sim.status()["load_balancer_strategy"] == name
    assert await load == {200: 400}


async def _stream(client: httpx.AsyncClient, cluster: Cluster, tokens: int, begun: asyncio.Semaphore) -> str:
    """``ok``, or how it failed. A stream that ends without [DONE] and without an error is ``silent``."""
    body = {"model": "demo", "prompt": "once", "max_tokens": tokens, "stream": True, "ignore_eos": True}
    text = ""
    try:
        async with client.stream("POST", f"{cluster.url}/v1/completions", json=body) as response:
            if response.status_code != 200:
                return f"status {response.status_code}"
            async for piece in response.aiter_text():
                if not text:
                    begun.release()
                text += piece
    except httpx.HTTPError as error:
        events = sse(text)
        return "error event" if events and "error" in events[-1] else f"silent: {error}"
    events = sse(text)
    if events and events[-1] == "[DONE]":
        return "ok" if len(events) == tokens + 1 else f"short: {len(events)}"
    return "silent end"


async def test_killing_a_worker_under_200_streams_fails_none(cluster: Cluster) -> None:
    result = cluster.up(
        "--engine", "sim", "--instances", "3", "--strategy", "round_robin", "--", "--itl-ms", "100",
        "--max-num-seqs", "256",
    )
    assert result.returncode == 0, result.stderr
    cluster.wait_ready(3)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=60, limits=limits) as client:
        begun = asyncio.Semaphore(0)
        streams = [asyncio.ensure_future(_stream(client, cluster, 60, begun)) for _ in range(200)]
        async with asyncio.timeout(20):
            for _ in streams:  # one that has not begun yet would be made again elsewhere, not moved
                await begun.acquire()
        instances = (await asyncio.to_thread(cluster.status))["instances"]
        on_victim = instances["instance_1"]["in_flight"]
        kill(instances["instance_1"]["pid"])
        # From this moment on every new request has to succeed.
        later = await _burst(cluster, 60)
        outcomes = Counter(await asyncio.gather(*streams))
    assert later == {200: 60}
    assert 60 <= on_victim <= 70
    assert outcomes == {"ok": 200}
    metrics = (await asyncio.to_thread(httpx.get, f"{cluster.url}/metrics")).text
    moved = re.findall(r"clusterctl_streams_moved_total{.*instance_1.*} (\S+)", metrics)
    assert sum(map(float, moved)) == on_victim
    status = poll(lambda: (s := cluster.status())["running_instances"] == 3 and s, 15, "it comes back")
    assert status["load_balancer"]["in_flight"] == 0
    assert status["instances"]["instance_1"]["restarts"] == 1


async def _routed(client: httpx.AsyncClient, cluster: Cluster, kill_at: int | None) -> list[dict[str, Any]]:
    """The lines of a chat of the route, whose worker is killed after so many."""
    lines: list[dict[str, Any]] = []
    body = {"prompt": "我的账单", "max_tokens": 40}
    async with client.stream("POST", f"{cluster.url}/v1/chat/finance", json=body) as response:
        assert (response.status_code, response.headers["x-routed-model"]) == (200, "pirate")
        async for line in response.aiter_lines():
            if not line:
                continue
            lines.append(json.loads(line.removeprefix("data: ")))
            if len(lines) == kill_at:
                instances = (await asyncio.to_thread(cluster.status))["instances"]
                (pid,) = [i["pid"] for i in instances.values() if i["in_flight"]]
                kill(pid)
    return lines


async def test_a_chat_of_a_route_goes_on_with_the_side_of_its_alias_when_its_worker_is_killed(cluster: Cluster) -> None:
    result = cluster.up("--engine", "sim", "--instances", "2", "--", "--itl-ms", "50")
    assert result.returncode == 0, result.stderr
    cluster.wait_ready(2)
    said = cluster.run("alias", "set", "expert-a", "pirate=100,poet=0")
    assert said.returncode == 0, said.stderr
    route = {"rules": [{"keywords": ["账单"], "model": "expert-a"}], "default": "demo"}
    assert cluster.ask("PUT", "/v1/cluster/routes/finance", route).status_code == 200
    async with httpx.AsyncClient(timeout=60) as client:
        whole = await _routed(client, cluster, None)
        assert [line["finished"] for line in whole] == [False] * (len(whole) - 1) + [True] and len(whole) >= 10
        broken = await _routed(client, cluster, 5)
    assert "".join(line["text_delta"] for line in broken) == "".join(line["text_delta"] for line in whole)
    assert broken[-1]["finished"]
    assert cluster.run("alias", "undo", "expert-a").returncode == 0


async def test_requests_wait_in_the_balancer_and_not_in_workers_that_are_full(cluster: Cluster) -> None:
    """That a worker's own word of what it computes at a time gets there, and holds when another one dies."""
    up = ("--engine", "sim", "--instances", "2", "--", "--ttft-ms", "1", "--itl-ms", "20", "--max-num-seqs", "4")
    assert cluster.up(*up).returncode == 0
    cluster.wait_ready(2)
    load = asyncio.ensure_future(_burst(cluster, 120, 60, max_tokens=10, ignore_eos=True))
    most, waiting, killed = 0, 0.0, False
    while not load.done():
        instances = (await asyncio.to_thread(cluster.status))["instances"]
        most = max(most, *(each["in_flight"] for each in instances.values()))
        text = (await asyncio.to_thread(httpx.get, f"{cluster.url}/metrics")).text
        waiting = max(waiting, float(re.findall(r"^clusterctl_queued_requests(?:{.*})? (\S+)", text, re.M)[0]))
        if waiting > 20 and not killed:
            kill(instances["instance_1"]["pid"])
            killed = True
    assert await load == {200: 120}
    assert killed and 4 <= most <= 6


@pytest.mark.alone
def test_a_disconnect_of_the_client_aborts_the_request_on_the_worker(cluster: Cluster) -> None:
    assert cluster.up("--engine", "sim", "--instances", "1", "--", "--itl-ms", "100").returncode == 0
    body = {"model": "demo", "prompt": "x", "max_tokens": 500, "stream": True, "ignore_eos": True}

    def running() -> float:
        return float(cluster.ask_worker("instance_0", "GET", "/sim/state").json()["running"])

    with httpx.stream("POST", f"{cluster.url}/v1/completions", json=body) as response:
        pieces = response.iter_bytes()  # kept: a generator that is collected closes the response
        next(pieces)
        assert running() == 1
        assert cluster.instance("instance_0")["in_flight"] == 1
    poll(lambda: running() == 0, 1.0, "the worker gives it up within a second")
    poll(lambda: cluster.instance("instance_0")["in_flight"] == 0, 1.0, "the lease is released")


def test_models_are_listed_once_and_adapters_answer_as_themselves(shared_sim: Cluster) -> None:
    cards = httpx.get(f"{shared_sim.url}/v1/models").json()["data"]
    assert [card["id"] for card in cards] == ["demo", "pirate", "poet"]
    assert [card["parent"] for card in cards] == [None, "demo", "demo"]
    answers = [shared_sim.complete(card["id"], max_tokens=8).json() for card in cards]
    assert len({answer["choices"][0]["text"] for answer in answers}) == 3
