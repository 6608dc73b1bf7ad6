"""Requests in every spelling that vLLM takes, streamed, broken in the middle and continued, on the real engine.

The connection is cut and not the worker: a balancer in the test's own process has two workers of the cluster, each
behind a relay that cuts every answer once.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import spellings
from config.topology import BackendSpec
from harness import Cluster
from lbfakes import Balanced, running_balancer
from simstreams import seen

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(420)]

TOKENS, CUT_AFTER, AT_ONCE = 12, 5, 8


class Relay:
    """In front of the worker at ``port``. Cuts the first answer to each request in ``cut``, shared with others, after
    so many of its events."""

    def __init__(self, port: int, cut: set[bytes]) -> None:
        self._port, self._cut = port, cut

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        above, below = await asyncio.open_connection("127.0.0.1", self._port)
        left = [0]
        try:
            await asyncio.gather(self._up(reader, below, left), self._down(above, writer, left))
        except ConnectionError:
            pass
        finally:
            below.transport.abort()
            writer.transport.abort()

    async def _up(self, reader: asyncio.StreamReader, below: asyncio.StreamWriter, left: list[int]) -> None:
        while data := await reader.read(65536):
            found = re.search(rb"X-Request-Id: (cut-\S+)", data, re.IGNORECASE)
            left[0] = 0
            if found and found[1] not in self._cut and not re.match(rb"POST \S+(?:render|tokenize) ", data):
                self._cut.add(found[1])
                left[0] = CUT_AFTER
            below.write(data)
        raise ConnectionResetError

    async def _down(self, above: asyncio.StreamReader, writer: asyncio.StreamWriter, left: list[int]) -> None:
        while data := await above.read(65536):
            events = data.count(b"data: {")
            if not 0 < left[0] <= events:
                left[0] = max(0, left[0] - events)
                writer.write(data)
                continue
            end = 0
            for _ in range(left[0]):
                end = data.find(b"\n\n", end) + 2
            writer.write(data[:end])
            await writer.drain()
            await asyncio.sleep(0.05)  # an end overtakes what was written before it
            break
        raise ConnectionResetError


@asynccontextmanager
async def relayed(vllm: Cluster, folder: Path) -> AsyncIterator[Balanced]:
    async with AsyncExitStack() as stack:
        balancer = await stack.enter_async_context(running_balancer(folder))
        cut: set[bytes] = set()
        specs = []
        for name in ("instance_0", "instance_1"):
            server = await asyncio.start_server(Relay(vllm.instance(name)["port"], cut), "127.0.0.1", 0)
            await stack.enter_async_context(server)
            cards = vllm.ask_worker(name, "GET", "/v1/models").json()["data"]
            port, key = server.sockets[0].getsockname()[1], vllm.worker_key(name)
            address = ("http", "127.0.0.1", port, "127.0.0.1")
            specs.append(BackendSpec(name, 1, "ready", *address, api_key=key, models=tuple(cards)))
        balancer.push(*specs)
        yield balancer


async def ask(balancer: Balanced, body: dict[str, Any], request_id: str) -> dict[str, Any]:
    path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
    patience, headers = aiohttp.ClientTimeout(total=120), {"X-Request-Id": request_id}
    async with balancer.request("POST", path, json=body, headers=headers, timeout=patience) as response:
        raw = await response.read()
    assert response.status == 200, raw
    found = seen(raw)
    assert len(found.pop("heads")) == 1
    # The numbers differ in the last digits with what else is in the batch.
    shown = [entry["token"] if isinstance(entry, dict) else entry[:1] + entry[2:3] for entry in found["logprobs"]]
    return {**found, "logprobs": shown}


@pytest.mark.measured  # where the engine has no processor an event has many tokens: more end before they are cut
async def test_a_cut_stream_is_the_undisturbed_one_however_it_is_asked_for(vllm: Cluster, tmp_path: Path) -> None:
    vllm.wait_ready(3, 300)
    gate = asyncio.Semaphore(AT_ONCE)
    bodies = [body if "max_tokens" not in body else shortened(body) for body in spellings.few()]

    async def pair(balancer: Balanced, number: int, body: dict[str, Any]) -> str:
        async with gate:
            try:
                whole = await ask(balancer, body, f"whole-{number}")
                cut = await ask(balancer, body, f"cut-{number}")
            except (AssertionError, aiohttp.ClientError) as error:
                return f"{spellings.label(body)}: {error}"
        return "" if cut == whole else f"{spellings.label(body)}: {cut} and not {whole}"

    async with relayed(vllm, tmp_path) as balancer:
        found = await asyncio.gather(*(pair(balancer, *item) for item in enumerate(bodies)))
        # What else is in a batch can turn a choice between two tokens that are about as likely: once more, alone.
        doubtful = [number for number, what in enumerate(found) if what]
        found = [await pair(balancer, len(bodies) + number, bodies[number]) for number in doubtful]
        moved = balancer.parts.shared.metrics.render()
    assert not list(filter(None, found))
    count = sum(map(float, re.findall(r"clusterctl_streams_moved_total{[^}]*} (\S+)", moved)))
    assert count >= 0.8 * len(bodies), "but for some that end before they are cut"


def shortened(body: dict[str, Any]) -> dict[str, Any]:
    """With fewer tokens, if their number is not what is special."""
    is_plain = body["max_tokens"] is spellings.BODY["max_tokens"] and "min_tokens" not in body
    return {**body, "max_tokens": TOKENS} if is_plain else body


async def test_a_limit_and_what_the_engine_adds_come_from_the_engine(vllm: Cluster, tmp_path: Path) -> None:
    """A worker says how it takes a request: without a limit a chat's is the rest of the context."""
    body = {"model": "demo", "messages": [{"role": "user", "content": "x"}], "temperature": "0", "min_tokens": "3"}
    found = vllm.ask_worker("instance_0", "POST", "/v1/chat/completions/render", body).json()
    longest = vllm.ask_worker("instance_0", "GET", "/v1/models").json()["data"][0]["max_model_len"]
    assert found["sampling_params"]["max_tokens"] == longest - len(found["token_ids"])
    assert found["sampling_params"]["temperature"] == 0
    assert json.dumps(found).index('"token_ids"') < json.dumps(found).index('"sampling_params"')
