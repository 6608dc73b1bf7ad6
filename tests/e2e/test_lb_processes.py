"""Several balancer processes behind the one URL: as one to clients, and separate when one dies."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from harness import Cluster, free_port, kill, poll, sse


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two balancers in front of two workers whose streams take their time."""
    cluster = Cluster(tmp_path_factory.mktemp("two"), free_port())
    result = cluster.up(
        "--engine", "sim", "--instances", "2", "--lb-processes", "2", "--", "--ttft-ms", "1", "--itl-ms", "50",
        "--max-num-seqs", "256",
    )
    assert result.returncode == 0, result.stderr
    cluster.wait_ready(2)
    poll(lambda: len(set(_pids(cluster.status()))) == 2 and None not in _pids(cluster.status()), 5)
    yield cluster
    cluster.close()


def _pids(status: dict[str, Any]) -> list[int | None]:
    return [process["pid"] for process in status["load_balancer"]["processes"]]


async def _status(client: httpx.AsyncClient) -> dict[str, Any]:
    answer: dict[str, Any] = (await client.get("/v1/cluster/status")).json()
    return answer


def _in_flight(status: dict[str, Any]) -> list[int]:
    return [i["in_flight"] for i in status["instances"].values()]


def _requests(status: dict[str, Any]) -> list[int]:
    return [i["requests_total"] for i in status["instances"].values()]


async def _clients(cluster: Cluster, exits: AsyncExitStack, each: int) -> dict[int, list[httpx.AsyncClient]]:
    """``each`` clients with one kept connection, by the process that has accepted it."""
    found: dict[int, list[httpx.AsyncClient]] = {}
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
    async with asyncio.timeout(15):
        while len(found) < 2 or any(len(clients) < each for clients in found.values()):
            client = httpx.AsyncClient(base_url=cluster.url, limits=limits, timeout=30)
            pid = (await _status(client))["load_balancer"]["pid"]
            if len(found.setdefault(pid, [])) < each:
                found[pid].append(client)
                exits.push_async_callback(client.aclose)
            else:
                await client.aclose()
    return found


@asynccontextmanager
async def _stream(client: httpx.AsyncClient, tokens: int = 600) -> AsyncIterator[AsyncIterator[str]]:
    """A stream that has begun."""
    body = {"model": "demo", "prompt": "once", "max_tokens": tokens, "stream": True, "ignore_eos": True}
    async with client.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200
        pieces = response.aiter_text()
        await anext(pieces)
        yield pieces


async def _complete(client: httpx.AsyncClient, prompt: str = "hi") -> int:
    body = {"model": "demo", "prompt": prompt, "max_tokens": 1}
    return (await client.post("/v1/completions", json=body)).status_code


def _sum(metrics: str, name: str) -> float:
    return sum(float(line.rpartition(" ")[2]) for line in metrics.splitlines() if line.startswith(f"{name}{{"))


async def test_two_balancers_are_one_to_clients(two: Cluster) -> None:
    before = sum(i["requests_total"] for i in two.status()["instances"].values())
    async with AsyncExitStack() as exits:
        by_pid = await _clients(two, exits, 4)
        assert set(by_pid) == set(_pids(two.status()))
        (one, *_), (other, *_) = by_pid.values()

        every = [client for clients in by_pid.values() for client in clients]
        answers = Counter(await asyncio.gather(*(_complete(client) for client in every * 25)))
        assert answers == {200: 200}
        for client in (one, other):
            status = await _status(client)
            assert sum(i["requests_total"] for i in status["instances"].values()) == before + 200
            assert status["load_balancer"]["in_flight"] == 0
            metrics = (await client.get("/metrics")).text
            assert _sum(metrics, "clusterctl_requests_total") == before + 200
            assert _sum(metrics, "clusterctl_request_seconds_count") == before + 200
            assert _sum(metrics, "clusterctl_instance_requests_total") == before + 200
            assert _sum(metrics, "clusterctl_instance_ready") == 2

        for strategy in ("random", "weighted", "power_of_two", "round_robin", "least_connections"):
            assert (await one.post("/v1/cluster/strategy", json={"strategy": strategy})).status_code == 200
            assert (await other.get("/v1/cluster/status")).json()["load_balancer_strategy"] == strategy

        held: list[list[int]] = []
        async with AsyncExitStack() as streams:
            for clients in by_pid.values():  # all of one process, then all of the other
                for client in clients[1:]:
                    await streams.enter_async_context(_stream(client))
                    seen = [_in_flight(await _status(looking)) for looking in (one, other)]
                    assert seen[0] == seen[1]
                    held.append(seen[0])
            metrics = (await other.get("/metrics")).text
            assert _sum(metrics, "clusterctl_in_flight") == _sum(metrics, "clusterctl_model_in_flight") == 6
        assert [max(counts) - min(counts) for counts in held] == [1, 0, 1, 0, 1, 0]
        assert held[-1] == [3, 3]
        await asyncio.to_thread(poll, lambda: _in_flight(two.status()) == [0, 0], 5, "the leases are released")


async def test_under_adaptive_one_knows_what_prompts_the_other_has_sent_where(two: Cluster) -> None:
    async with AsyncExitStack() as exits:
        one, other = (clients[0] for clients in (await _clients(two, exits, 1)).values())
        assert (await one.post("/v1/cluster/strategy", json={"strategy": "adaptive"})).status_code == 200
        before = now = _requests(await _status(one))
        for number in range(8):
            prompt = f"{number} {'and so on ' * 500}"
            for client, text, counted in ((one, prompt, 1), (other, f"{prompt}{number}", 2)):
                assert await _complete(client, text) == 200
                async with asyncio.timeout(10):  # it is over for everybody some time after its answer is out
                    while sum(now) < sum(before) + counted:
                        now = _requests(await _status(one))
            assert sorted(b - a for a, b in zip(before, now, strict=True)) == [0, 2]
            before = now
        assert (await one.post("/v1/cluster/strategy", json={"strategy": "least_connections"})).status_code == 200


@pytest.mark.alone
async def test_sigkill_of_one_costs_its_own_connections_and_no_others(two: Cluster) -> None:
    async with AsyncExitStack() as exits:
        by_pid = await _clients(two, exits, 5)
        victim, survivor = by_pid
        looking, busy, *theirs = by_pid[survivor]
        doomed = by_pid[victim]
        lost = [await exits.enter_async_context(_stream(client)) for client in doomed]

        async def whole(client: httpx.AsyncClient) -> str:
            text = ""
            async with _stream(client, 60) as pieces:
                async for piece in pieces:
                    text += piece
            return "ok" if sse(text)[-1] == "[DONE]" else text

        kept = [asyncio.ensure_future(whole(client)) for client in theirs]
        ended = asyncio.Event()

        async def load(client: httpx.AsyncClient) -> Counter[int]:
            """Request after request on a connection that the other process has."""
            answers: Counter[int] = Counter()
            while not ended.is_set():
                answers[await _complete(client)] += 1
            return answers

        loading = asyncio.ensure_future(load(busy))
        async with asyncio.timeout(5):  # processes look for each other four times a second
            while sum(_in_flight(await _status(looking))) < len(doomed) + len(theirs):
                await asyncio.sleep(0.05)
        kill(victim)
        began = time.monotonic()
        while sum(_in_flight(await _status(looking))) > len(theirs) + 1:
            assert time.monotonic() - began < 0.5, "what the dead one had in flight is not in flight any more"
            await asyncio.sleep(0.02)
        async with httpx.AsyncClient(base_url=two.url, timeout=30) as anyone:
            later = Counter(await asyncio.gather(*(_complete(anyone) for _ in range(60))))
        assert later == {200: 60}
        for pieces in lost:
            with pytest.raises(httpx.HTTPError):
                async for _ in pieces:
                    pass
        assert await asyncio.gather(*kept) == ["ok"] * len(theirs)
        ended.set()
        answers = await loading
        assert set(answers) == {200} and answers[200] > 5

    def replaced() -> dict[str, Any] | None:
        status = two.status()
        pids = _pids(status)
        whole = survivor in pids and victim not in pids and None not in pids
        return status if whole and status["load_balancer"]["in_flight"] == 0 else None

    status = await asyncio.to_thread(poll, replaced, 10, "another takes its place")
    assert status["load_balancer"]["restarts"] == 1  # of the one supervisor that there was
    assert len(list(two.state_dir.glob("counters*.bin"))) == 2
    async with AsyncExitStack() as exits:
        assert set(await _clients(two, exits, 1)) == set(_pids(status))


def test_both_are_adopted_by_the_next_supervisor(two: Cluster) -> None:
    before = two.status()
    kill(before["supervisor"]["pid"])
    poll(lambda: two.status()["supervisor"]["pid"] is None, 5)
    assert two.complete().status_code == 200
    assert two.up("--engine", "sim").returncode == 0
    after = two.wait_ready(2)
    assert _pids(after) == _pids(before)
    assert after["load_balancer"]["restarts"] == 0  # of the new supervisor
    two.post("/v1/cluster/strategy", {"strategy": "random"})
    assert {two.status()["load_balancer_strategy"] for _ in range(10)} == {"random"}
    assert two.run("scale", "1").returncode == 0
    assert two.wait_ready(1)["running_instances"] == 1
    assert two.complete().status_code == 200
