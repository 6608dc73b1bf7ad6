"""The simulator as a process: answers, places, adapters, who may ask."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from simprocesses import LONG, SHORT, Start, adapter, metric, metrics, read_some
from worker.demo import adapter_path
from worker.probe import Target
from worker.sim.api.app import build
from worker.sim.settings import SimSettings, parse
from worker.sim.worker import Worker

pytestmark = pytest.mark.processes


async def test_a_continuation_on_another_worker_is_exact(sim: Start) -> None:
    first, second = await asyncio.gather(sim(), sim())
    body = {"prompt": "Once upon", "max_tokens": 40, "ignore_eos": True, "return_token_ids": True}
    choice = (await first.post("/v1/completions", body))[1]["choices"][0]
    prompt = choice["prompt_token_ids"] + choice["token_ids"][:15]
    rest = {**body, "prompt": prompt, "max_tokens": 25}
    other = (await second.post("/v1/completions", rest))[1]["choices"][0]
    assert other["token_ids"] == choice["token_ids"][15:]


async def test_a_stream_says_what_a_plain_answer_says(sim: Start) -> None:
    worker = await sim()
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        "max_tokens": 30,
        "ignore_eos": True,
        "stop": ["zz"],
    }
    plain = (await worker.post("/v1/chat/completions", body))[1]["choices"][0]["message"]["content"]
    lines = await worker.lines(body, "/v1/chat/completions")
    assert lines[-1] == "[DONE]"
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines[:-1]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta["content"] for delta in deltas) == plain


async def test_places_queue_and_disconnect(sim: Start) -> None:
    worker = await sim("--max-num-seqs", "2", "--max-num-queued-reqs", "3")
    async with worker.session.post(worker.url + "/v1/completions", json=LONG) as one:
        async with worker.session.post(worker.url + "/v1/completions", json=LONG) as two:
            await asyncio.gather(read_some(one), read_some(two))
            waiting = asyncio.create_task(worker.post("/v1/completions", SHORT), name="third")
            await worker.running(2, 1)
            page = await metrics(worker)
            assert metric(page, "num_requests_running") == 2 and metric(page, "num_requests_waiting") == 1
            status, body = await worker.post("/v1/completions", SHORT)
            assert (status, body["error"]["type"]) == (503, "Service Unavailable")
            two.close()  # the client goes away: its place is free at once
            assert (await waiting)[0] == 200
            await worker.running(1)
    await worker.running(0)


async def test_adapter_slots(sim: Start, tmp_path: Path) -> None:
    worker = await sim("--enable-lora", "--max-loras", "1")
    for name in ("a", "b"):
        adapter(tmp_path / name)
        load = {"lora_name": name, "lora_path": str(tmp_path / name)}
        status, text = await worker.post("/v1/load_lora_adapter", load)
        assert (status, text) == (200, f"Success: LoRA adapter '{name}' added successfully.")
    async with worker.session.post(worker.url + "/v1/completions", json={**LONG, "model": "a"}) as stream:
        await read_some(stream)
        other = asyncio.create_task(worker.post("/v1/completions", {**SHORT, "model": "b"}), name="other adapter")
        await worker.running(1, 1)
        # Neither the base model nor the same adapter needs a new slot.
        assert (await worker.post("/v1/completions", SHORT))[0] == 200
        assert (await worker.post("/v1/completions", {**SHORT, "model": "a"}))[0] == 200
        assert not other.done()
    assert (await other)[0] == 200
    assert 'running_lora_adapters="a"' in await metrics(worker)


async def test_an_adapter_speaks_in_its_own_voice_unless_nothing_of_it_is_used(sim: Start, tmp_path: Path) -> None:
    """As vLLM: what it drops, and a matrix B of zeros, leave the base model's answers."""
    zeros = Path(shutil.copytree(adapter_path("poet"), tmp_path / "zeros"))
    raw = (zeros / "adapter_model.safetensors").read_bytes()
    start = 8 + int.from_bytes(raw[:8], "little")
    (zeros / "adapter_model.safetensors").write_bytes(raw[:start] + bytes(len(raw) - start))

    async def changes(worker: Any, name: str, path: Path) -> bool:
        assert (await worker.post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(path)}))[0] == 200
        target = Target(worker.session, worker.url)
        return bool(await target.numbers(worker.model, 5.0) != await target.numbers(name, 5.0))

    worker = await sim("--enable-lora")
    worker.model = (await worker.get("/v1/models"))["data"][0]["id"]
    assert await changes(worker, "poet", adapter_path("poet"))
    assert not await changes(worker, "zeros", zeros)
    await worker.fault("drop_lora", count=1)
    assert not await changes(worker, "dropped", adapter_path("pirate"))
    assert await changes(worker, "again", adapter_path("pirate"))
    other = await sim("--enable-lora", "--lora-target-modules", "lm_head")
    other.model = worker.model
    assert not await changes(other, "poet", adapter_path("poet"))


@pytest.mark.parametrize("rank", [8, 4096])
def test_lora_modules_at_start_up(spawn: Start, tmp_path: Path, rank: int) -> None:
    adapter(tmp_path / "x", rank)
    process, log = spawn("--host", "127.0.0.1", "--port", "0", "--enable-lora", "--lora-modules", f"x={tmp_path}/x")
    end = time.monotonic() + 8
    while process.poll() is None and "://" not in log.read_text() and time.monotonic() < end:
        time.sleep(0.01)
    assert (process.poll() == 1) == (rank > 16), log.read_text()


class _Unstarted(Worker):
    """What is asked of a worker while its routes are set up."""

    def __init__(self, settings: SimSettings) -> None:
        self.settings = settings


def _routes(settings: SimSettings) -> list[tuple[str, str]]:
    """Every method and path that the application knows, and some that it does not."""
    app = build(_Unstarted(settings))
    known = [(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None]
    assert len(known) > 12
    return [*known, *((method, path) for path in ("/health", "/nope", "/") for method in ("OPTIONS", "PATCH"))]


async def test_every_route_needs_the_key(sim: Start) -> None:
    keyed = parse([], {"VLLM_API_KEY": "secret", "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}, 0.0)
    worker = await sim(VLLM_API_KEY="secret")
    for method, path in _routes(keyed):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "secret"}):
            async with worker.session.request(method, worker.url + path, headers=headers) as answer:
                assert answer.status == 401, (method, path)
                error = json.loads(await answer.read())["error"] if method != "HEAD" else {"code": 401}
                assert error["code"] == 401 and "secret" not in str(error)
        right = {"Authorization": "Bearer secret"}
        async with worker.session.request(method, worker.url + path, headers=right) as answer:
            assert answer.status != 401, (method, path)


@pytest.mark.skipif(os.geteuid() != 0, reason="to become somebody else")
async def test_nobody_else_reads_the_key_of_a_worker(sim: Start) -> None:
    """It is in the environment, which only its owner may read; arguments are everybody's."""
    worker = await sim(VLLM_API_KEY="s3cret")
    shown = ["cat", f"/proc/{worker.process.pid}/environ"]

    def read(**somebody: Any) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(shown, capture_output=True, check=False, **somebody)

    assert b"s3cret" in read().stdout
    other = read(user=65534, group=65534, extra_groups=[])
    assert (other.returncode, b"s3cret" in other.stdout) == (1, False)
    for pid in worker.members():
        assert b"s3cret" not in Path(f"/proc/{pid}/cmdline").read_bytes()


async def test_a_unix_socket(spawn: Start, tmp_path: Path) -> None:
    path = tmp_path / "s"
    spawn("--uds", str(path))
    connector = aiohttp.UnixConnector(str(path))
    async with aiohttp.ClientSession(connector=connector) as session:
        end = time.monotonic() + 8
        while True:
            try:
                async with session.get("http://sim/health") as answer:
                    assert answer.status == 200
                    return
            except aiohttp.ClientConnectorError:
                assert time.monotonic() < end
                await asyncio.sleep(0.02)
