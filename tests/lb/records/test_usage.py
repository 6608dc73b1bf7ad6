from __future__ import annotations

import asyncio
import json
import re
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from config.identity import api_keys
from config.identity.api_keys import ApiKey, Budget, Digest, Period
from fakes import soon
from lb.protocol.usage import TokenUsage
from lb.records.usage import UsageLedger
from lbfakes import Balanced, running_balancer, running_worker
from simstreams import CONTEXT, stream
from worker.sim.engine import tokens

DAY = 86_400.0


class Time:
    now = 20_000 * DAY  # 2024-10-04

    def __call__(self) -> float:
        return self.now


# what an engine says and does


async def generate(request: web.Request) -> web.StreamResponse:
    """As the simulator does. A prompt says ``cut:N``: its worker is lost after so many events; ``hang:N``: it says no
    more after them."""
    body = await request.json()
    if request.path == "/detokenize":
        return web.json_response({"prompt": tokens.decode(body["tokens"], special=True)})
    if request.path.endswith("/render"):
        return web.Response(status=403)
    chat = "chat" in request.path
    if not body.get("stream"):
        return web.json_response({"choices": [{"index": 0, "text": "…"}], "usage": usage_of(body, chat), "x": "y"})
    fault = re.search(r"(cut|hang):(\d+)", json.dumps(body.get("prompt") or body.get("messages")))
    events = stream(body, chat)
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for event in events[: int(fault[2])] if fault else events:
        await response.write(event)
        await asyncio.sleep(0)
    if fault and fault[1] == "hang":
        await asyncio.sleep(60)
    if fault and request.transport is not None:
        request.transport.close()
    return response


def usage_of(body: dict[str, Any], chat: bool) -> dict[str, Any]:
    """Of the undisturbed answer."""
    events = stream({**body, "stream": True, "stream_options": {"include_usage": True}}, chat)
    found: dict[str, Any] = json.loads(events[-2][6:])["usage"]
    return found


KEYS = [f"key-{number}" for number in range(5)]


def key(name: str, **fields: Any) -> dict[str, Any]:
    return ApiKey(name, digests=(Digest(api_keys.digest(f"cck_{name}")),), **fields).to_json()


@asynccontextmanager
async def house(folder: Path, *keys: dict[str, Any]) -> AsyncIterator[Balanced]:
    async with (
        running_worker("instance_0", generate) as first,
        running_worker("instance_1", generate) as second,
        running_balancer(folder) as balancer,
    ):
        specs = [worker.spec(models=("base", "poet")) for worker in (first, second)]
        balancer.push(*(
            replace(one, models=tuple({**card, "max_model_len": CONTEXT} for card in one.models)) for one in specs
        ))  # fmt: skip
        balancer.parts.keys.apply({"version": [1, 1], "keyed": True, "keys": [*keys, key("looks", scope="read")]})
        yield balancer


async def _ask(balancer: Balanced, number: int) -> TokenUsage:
    """One of five kinds; what its client has counted."""
    kind, chat, prompt = number % 5, number % 3 == 0, "a" * (number % 17 + 1)
    if kind in (3, 4):
        chat, prompt = False, f"{prompt} {'cut' if kind == 3 else 'hang'}:{number % 7 + 1}"
    body: dict[str, Any] = {
        "model": "poet" if number % 2 else "base", "max_tokens": number % 13 + 12, "temperature": 0, "ignore_eos": True,
        **({"messages": [{"role": "user", "content": prompt}]} if chat else {"prompt": prompt}),
    }  # fmt: skip
    expected = usage_of(body, chat)
    body |= {} if kind == 0 else {"stream": True}
    body |= {"stream_options": {"include_usage": True}} if kind in (2, 3) else {}
    path = "/v1/chat/completions" if chat else "/v1/completions"
    headers = {"x-api-key": f"cck_{KEYS[number // 5 % 5]}"}
    async with balancer.request("POST", path, json=body, headers=headers) as response:
        assert response.status == 200
        if kind == 4:  # it leaves in the middle
            read = b""
            while read.count(b"\n\n") < number % 7 + 1:
                read += await response.content.readany()
            response.close()
            return TokenUsage(expected["prompt_tokens"], 0, number % 7 + 1)
        read = await response.read()
    if kind == 1:
        return TokenUsage(expected["prompt_tokens"], 0, expected["completion_tokens"])
    said = json.loads(read if kind == 0 else read.split(b"\n\n")[-3][6:])["usage"]
    assert said["completion_tokens"] == expected["completion_tokens"]
    return TokenUsage(said["prompt_tokens"], 0, said["completion_tokens"])


async def test_the_ledger_is_the_sum_of_what_clients_counted(tmp_path: Path) -> None:
    """500 requests: plain, streamed without and with usage, continued after their worker was lost, left."""
    limit, counted = asyncio.Semaphore(20), Counter[tuple[str, str, str]]()

    async def one(number: int) -> None:
        async with limit:
            usage = await _ask(balancer, number)
        row = (KEYS[number // 5 % 5], "poet" if number % 2 else "base")
        counted[*row, "requests"] += 1
        for name, tokens_ in (("prompt_tokens", usage.prompt), ("completion_tokens", usage.completion)):
            counted[*row, name] += tokens_

    async with house(tmp_path, *map(key, KEYS)) as balancer:
        await asyncio.gather(*(one(number) for number in range(500)))
        await soon(lambda: balancer.in_flight == 0)
        status, said = await balancer.answer("GET", "/v1/cluster/usage", headers={"x-api-key": "cck_looks"})
        assert status == 200 and said["by"] == ["key", "model"]
        of = {"instance": "instance_0", "cause": "broken", "way": "tokens"}
        assert balancer.metric("clusterctl_streams_moved_total", **of) is not None
        by_key = balancer.metric("clusterctl_key_requests_total", key="key-0")
    found = Counter[tuple[str, str, str]]({
        (row["key"], row["model"], name): row[name]
        for row in said["usage"] for name in ("requests", "prompt_tokens", "completion_tokens")
    })  # fmt: skip
    assert found == counted and by_key == 100


async def test_a_long_stream_is_in_it_before_its_end(tmp_path: Path) -> None:
    """So its balancer can be killed. In the end it is what its client has counted, and in no metric twice."""
    body = {"model": "base", "prompt": "hang:3", "max_tokens": 20, "ignore_eos": True, "stream": True}
    prompt = usage_of(body, False)["prompt_tokens"]
    async with house(tmp_path, key("a")) as balancer:
        ledger = balancer.parts.ledger

        async def told() -> list[int]:
            rows = await ledger.query(["key"], "2000-01-01", "2100-01-01")
            return [row[name] for row in rows for name in ("requests", "prompt_tokens", "completion_tokens")]

        async with balancer.request("POST", "/v1/completions", json=body, headers={"x-api-key": "cck_a"}) as response:
            read = b""
            while read.count(b"\n\n") < 3:
                read += await response.content.readany()
            async with asyncio.timeout(5):
                while await told() != [1, prompt, 3]:
                    await asyncio.sleep(0.05)
            assert ledger.spent("a", Period.DAY) == prompt + 3
            assert balancer.metric("clusterctl_key_requests_total", key="a") is None
        await soon(lambda: balancer.in_flight == 0)
        assert await told() == [1, prompt, 3]
        assert balancer.metric("clusterctl_key_tokens_total", key="a", kind="completion") == 3
        assert balancer.metric("clusterctl_key_requests_total", key="a") == 1


_MESSAGES = [
    b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":7}}}\n\n',
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0}\n\n',
]
_RESPONSES = [b'event: response.created\ndata: {"type":"response.created","response":{"id":"r","usage":null}}\n\n']
_DELTA = b'event: delta\ndata: {"type":"delta","delta":"x"}\n\n'
_ENDS = {
    "/v1/messages": b'data: {"type":"message_delta","usage":{"input_tokens":7,"output_tokens":20}}\n\n',
    "/v1/responses": b'data: {"response":{"id":"r","usage":{"input_tokens":7,"output_tokens":20}}}\n\n',
}


@pytest.mark.parametrize(
    ("path", "begins", "prompt"), [("/v1/messages", _MESSAGES, 7), ("/v1/responses", _RESPONSES, 0)]
)
@pytest.mark.parametrize("ends", [True, False])
async def test_a_stream_of_another_api_is_in_it_before_its_end(
    tmp_path: Path, path: str, begins: list[bytes], prompt: int, *, ends: bool
) -> None:
    """By its events, and what its first says of the prompt; then by its usage, if it comes to tell it."""
    go_on = asyncio.Event()

    async def streams(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in (*begins, *[_DELTA] * 25):
            await response.write(event)
            await asyncio.sleep(0)
        await go_on.wait()
        await response.write(_ENDS[path])
        return response

    events = len(begins) + 25
    async with running_worker("instance_0", streams) as worker, running_balancer(tmp_path) as balancer:
        balancer.push(worker.spec(models=("base",)))
        balancer.parts.keys.apply({"version": [1, 1], "keyed": True, "keys": [key("a")]})

        async def told() -> list[int]:
            rows = await balancer.parts.ledger.query(["key"], "2000-01-01", "2100-01-01")
            return [row[name] for row in rows for name in ("requests", "prompt_tokens", "completion_tokens")]

        body = {"model": "base", "stream": True, "input": "x", "messages": [], "max_tokens": 99}
        async with balancer.request("POST", path, json=body, headers={"x-api-key": "cck_a"}) as response:
            async with asyncio.timeout(5):
                while await told() != [1, prompt, events]:
                    await asyncio.sleep(0.05)
            if ends:
                go_on.set()
                await response.read()
        await soon(lambda: balancer.in_flight == 0)
        assert await told() == ([1, 7, 20] if ends else [1, prompt, events])
        go_on.set()


async def test_requests_that_nobody_was_asked_are_not_in_it(tmp_path: Path) -> None:
    async with house(tmp_path, key("a")) as balancer:
        headers = {"x-api-key": "cck_a"}
        assert (await balancer.answer("POST", "/v1/completions", json={"model": "no"}, headers=headers))[0] == 404
        assert (await balancer.answer("POST", "/v1/completions", json={"model": "base"}))[0] == 401
        _, said = await balancer.answer("GET", "/v1/cluster/usage", headers={"x-api-key": "cck_looks"})
        assert said["usage"] == [] and not (tmp_path / "usage.db").exists()


async def test_past_a_budget_nothing_is_answered(tmp_path: Path) -> None:
    async with house(tmp_path, key("a", budget=Budget(30, Period.DAY))) as balancer:
        headers, body = {"x-api-key": "cck_a"}, {"model": "base", "prompt": "hello", "max_tokens": 20}
        statuses = []
        for _ in range(4):
            async with balancer.request("POST", "/v1/completions", json=body, headers=headers) as response:
                statuses.append(response.status)
                said = await response.json()
        assert statuses[0] == 200 and statuses[-1] == 429
        assert (said["error"]["type"], said["error"]["code"]) == ("insufficient_quota", "insufficient_quota")
        assert response.headers["x-should-retry"] == "false"
    async with house(tmp_path, key("a", budget=Budget(30, Period.DAY))) as balancer:  # the next one knows
        assert (await balancer.answer("POST", "/v1/completions", json=body, headers=headers))[0] == 429


@pytest.mark.parametrize(
    ("query", "param"), [("by=color", "by"), ("by=", "by"), ("from=yesterday", "from"), ("to=2026-13-01", "to")]
)
async def test_what_is_no_question(tmp_path: Path, query: str, param: str) -> None:
    async with house(tmp_path) as balancer:
        headers = {"x-api-key": "cck_looks"}
        status, said = await balancer.answer("GET", f"/v1/cluster/usage?{query}", headers=headers)
        assert status == 400 and said["error"]["param"] == param


# the ledger


def _ledger(folder: Path, time: Time | None = None) -> UsageLedger:
    return UsageLedger(folder / "usage.db", time or Time())


async def test_several_balancers_write_one(tmp_path: Path) -> None:
    first, second = _ledger(tmp_path), _ledger(tmp_path)
    for ledger in (first, second, first):
        ledger.add("a", "base", TokenUsage(10, 4, 5))
    second.add("b", "poet", TokenUsage(1, 0, 1))
    await second.close()
    assert await first.query(["key"], "2024-10-04", "2024-10-04") == [
        {"key": "a", "requests": 3, "prompt_tokens": 30, "cached_tokens": 12, "completion_tokens": 15},
        {"key": "b", "requests": 1, "prompt_tokens": 1, "cached_tokens": 0, "completion_tokens": 1},
    ]
    await first.close()


async def test_days_are_those_of_utc(tmp_path: Path) -> None:
    time = Time()
    ledger = _ledger(tmp_path, time)
    time.now += DAY - 1
    ledger.add("a", "base", TokenUsage(1, 0, 1))
    time.now += 1
    ledger.add("a", "base", TokenUsage(2, 0, 2))
    found = await ledger.query(["day", "model"], "2024-10-01", "2024-10-31")
    assert [(row["day"], row["prompt_tokens"]) for row in found] == [("2024-10-04", 1), ("2024-10-05", 2)]
    assert await ledger.query(["day"], "2024-10-06", "2024-10-31") == []
    await ledger.close()


async def test_a_budget_is_of_its_day_or_month(tmp_path: Path) -> None:
    time = Time()
    first, second = _ledger(tmp_path, time), _ledger(tmp_path, time)
    first.add("a", "base", TokenUsage(10, 4, 5))
    assert (first.spent("a", Period.DAY), first.spent("b", Period.DAY)) == (15, 0)
    await first.close()
    assert first.spent("a", Period.MONTH) == 15
    await second.start()
    second.add("a", "poet", TokenUsage(1, 0, 0))
    assert second.spent("a", Period.DAY) == 16
    await second.close()
    time.now += DAY
    assert (second.spent("a", Period.DAY), second.spent("a", Period.MONTH)) == (0, 16)
    time.now += 31 * DAY
    assert second.spent("a", Period.MONTH) == 0


async def test_it_is_written_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lb.records.usage._EVERY", 0.05)
    ledger, other = _ledger(tmp_path), _ledger(tmp_path)
    ledger.add("a", "base", TokenUsage(10, 4, 5))
    async with asyncio.timeout(5):
        while not (found := await other.query(["key"], "2024-10-04", "2024-10-04")):
            await asyncio.sleep(0.02)
    assert found[0]["requests"] == 1


async def test_what_cannot_be_written_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "later"
    ledger = _ledger(folder)
    for _ in range(3):
        ledger.add("a", "base", TokenUsage(1, 0, 1))
        await ledger._write()
    assert caplog.text.count("kept in memory") == 1 and ledger.spent("a", Period.DAY) == 6
    folder.mkdir()
    assert (await ledger.query(["key"], "2024-10-04", "2024-10-04"))[0]["requests"] == 3
    assert ledger.spent("a", Period.DAY) == 6
    await ledger.close()


async def test_old_days_go(tmp_path: Path) -> None:
    time = Time()
    ledger = _ledger(tmp_path, time)
    ledger.add("a", "base", TokenUsage(1, 0, 1))
    await ledger._write()
    time.now += 801 * DAY
    ledger.add("a", "base", TokenUsage(1, 0, 1))
    await ledger.close()
    with sqlite3.connect(tmp_path / "usage.db") as database:
        assert database.execute("SELECT COUNT(*) FROM usage").fetchone() == (1,)


COUNT_AND_DIE = """
import asyncio, os, sys
from pathlib import Path
from lb.protocol.usage import TokenUsage
from lb.records.usage import UsageLedger

async def main():
    ledger = UsageLedger(Path(sys.argv[1]), lambda: 20_000 * 86_400.0)
    for _ in range(20):
        ledger.add("a", "base", TokenUsage(1, 0, 1))
        await asyncio.sleep(0.1)
        print("added", flush=True)
    os.kill(os.getpid(), 9)

asyncio.run(main())
"""


@pytest.mark.processes
async def test_a_balancer_that_is_killed_loses_the_last_second_at_most(tmp_path: Path) -> None:
    path = tmp_path / "usage.db"
    killed = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", COUNT_AND_DIE, str(path)], capture_output=True, check=False
    )
    assert killed.returncode == -9 and killed.stdout.count(b"added") == 20
    found = await _ledger(tmp_path).query(["key"], "2024-10-04", "2024-10-04")
    assert found[0]["requests"] >= 10
