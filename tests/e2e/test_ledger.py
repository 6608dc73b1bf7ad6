"""The ledger of usage while balancer and supervisor are killed under requests of several keys."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from harness import Cluster, free_port, poll

KEYS = ("one", "two", "three")

#: Between two tokens of a stream, s; and tokens of one that nobody disturbs.
GAP, TOKENS = 0.02, 40


@dataclass
class Counts:
    """What clients of one key have counted: requests that came to their end, tokens of those, and tokens of streams
    that broke off with their balancer."""

    whole: Counter[str] = field(default_factory=Counter)
    broken_requests: int = 0
    broken_tokens: int = 0


def test_at_most_the_last_second_is_missing(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, free_port())
    try:
        started = cluster.up(
            "--engine", "sim", "--instances", "2", "--", "--ttft-ms", "1", "--itl-ms",
            str(int(GAP * 1000)), "--max-num-seqs", "64",
        )  # fmt: skip
        assert started.returncode == 0, started.stderr
        cluster.wait_ready(2)
        secrets = {name: cluster.run("key", "create", name).stdout.strip() for name in KEYS}
        asyncio.run(_kills(cluster, secrets))
    finally:
        cluster.close()


async def _kills(cluster: Cluster, secrets: dict[str, str]) -> None:
    counted = {name: Counts() for name in KEYS}
    streams = 2 * len(KEYS)

    # The supervisor alone: nothing of the data plane ends, and nothing is missing.
    running = asyncio.ensure_future(_ask_all(cluster, secrets, counted, TOKENS))
    await asyncio.sleep(0.3)
    os.kill(cluster.status()["supervisor"]["pid"], signal.SIGKILL)
    await running
    assert await _ledger(cluster, secrets) == {name: dict(counts.whole) for name, counts in counted.items()}
    assert [counts.broken_requests for counts in counted.values()] == [0, 0, 0]
    again = await asyncio.to_thread(cluster.up)
    assert again.returncode == 0, again.stderr
    status = await asyncio.to_thread(cluster.wait_ready, 2)

    # The balancer: its streams break off, after more than the second that may be missing.
    running = asyncio.ensure_future(_ask_all(cluster, secrets, counted, 1_000))
    await asyncio.sleep(2.5)
    os.kill(status["load_balancer"]["pid"], signal.SIGKILL)
    await running
    await asyncio.to_thread(poll, lambda: cluster.status()["load_balancer"]["pid"] != status["load_balancer"]["pid"])
    await _ask_all(cluster, secrets, counted, TOKENS)  # goes on, and adds to it
    found = await _ledger(cluster, secrets)
    for name, counts in counted.items():
        missing = counts.broken_tokens - (found[name]["completion_tokens"] - counts.whole["completion_tokens"])
        assert counts.broken_requests == streams / len(KEYS), counts
        assert found[name]["requests"] == counts.whole["requests"] + counts.broken_requests
        assert counts.broken_tokens > 2 * 1.5 / GAP, "they ran for longer"
        assert 0 <= missing <= 2 * 1.2 / GAP, (missing, counts, found[name])

    # The supervisor once more, with what was counted before: it is in nobody's memory.
    os.kill((await asyncio.to_thread(cluster.status))["supervisor"]["pid"], signal.SIGKILL)
    assert await _ledger(cluster, secrets) == found


async def _ask_all(cluster: Cluster, secrets: dict[str, str], counted: dict[str, Counts], tokens: int) -> None:
    """Of each key a request in one piece, and two streams of so many tokens."""
    async with httpx.AsyncClient(timeout=30, headers={"Connection": "close"}) as client:
        await asyncio.gather(*(
            ask(client, f"{cluster.url}/v1/completions", secrets[name], counted[name], tokens)
            for name in KEYS for ask in (_plain, _stream, _stream)
        ))  # fmt: skip


async def _plain(client: httpx.AsyncClient, url: str, secret: str, counts: Counts, tokens: int) -> None:
    body = {"model": "demo", "prompt": "short", "max_tokens": 3, "ignore_eos": True}
    answer = await client.post(url, json=body, headers={"x-api-key": secret})
    assert answer.status_code == 200, answer.text
    _count(counts, answer.json()["usage"])


async def _stream(client: httpx.AsyncClient, url: str, secret: str, counts: Counts, tokens: int) -> None:
    body = {
        "model": "demo", "prompt": "long", "max_tokens": tokens, "ignore_eos": True, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    events: list[dict[str, Any]] = []
    try:
        async with client.stream("POST", url, json=body, headers={"x-api-key": secret}) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    events.append(json.loads(line.removeprefix("data: ")))
    except httpx.HTTPError:
        counts.broken_requests += 1
        counts.broken_tokens += sum(bool(event["choices"]) for event in events)
        return
    _count(counts, events[-1]["usage"])


def _count(counts: Counts, usage: dict[str, int]) -> None:
    counts.whole["requests"] += 1
    counts.whole["prompt_tokens"] += usage["prompt_tokens"]
    counts.whole["completion_tokens"] += usage["completion_tokens"]


async def _ledger(cluster: Cluster, secrets: dict[str, str]) -> dict[str, dict[str, int]]:
    """By key, of those."""
    answer = await asyncio.to_thread(cluster.ask, "GET", "/v1/cluster/usage?by=key")
    assert answer.status_code == 200, answer.text
    names = ("requests", "prompt_tokens", "completion_tokens")
    return {row["key"]: {name: row[name] for name in names} for row in answer.json()["usage"] if row["key"] in KEYS}
