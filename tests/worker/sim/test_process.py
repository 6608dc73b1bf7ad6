"""The simulator as a process: answers, places, death, drain, faults."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from worker.demo import adapter_path
from worker.probe import Target
from worker.sim.api.app import build
from worker.sim.settings import SimSettings, parse
from worker.sim.worker import Worker

pytestmark = pytest.mark.processes

Start = Callable[..., Any]
LONG = {"prompt": "hello", "max_tokens": 2000, "ignore_eos": True, "stream": True}
SHORT = {"prompt": "hello", "max_tokens": 3, "ignore_eos": True}


async def read_some(answer: aiohttp.ClientResponse, chunks: int = 2) -> None:
    """Wait until a stream has sent so many events."""
    for _ in range(chunks):
        await answer.content.readuntil(b"\n\n")


async def raw(worker: Any, body: dict[str, Any]) -> bytes:
    """Every byte of an answer, until the worker closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(worker.url.rpartition(":")[2]))
    data = json.dumps(body).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}"
    writer.write(head.encode() + b"\r\n\r\n" + data)
    try:
        async with asyncio.timeout(8):
            return await reader.read()
    finally:
        writer.close()


def metric(page: str, name: str) -> float:
    """The value of one of vLLM's samples without extra labels."""
    found = re.search(rf"^vllm:{name}{{[^}}]*}} (\S+)$", page, re.M)
    assert found, name
    return float(found[1])


async def metrics(worker: Any) -> str:
    async with worker.session.get(worker.url + "/metrics") as answer:
        return str(await answer.text())


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


def adapter(folder: Path, rank: int = 8) -> None:
    folder.mkdir()
    config = {"r": rank, "lora_alpha": 16, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    (folder / "adapter_model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")


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


async def test_sigkill_leaves_the_engine_core_behind(sim: Start) -> None:
    worker = await sim()
    child = (await worker.get("/sim/state"))["engine_core_pid"]
    worker.process.kill()
    assert await worker.exit_code() == -signal.SIGKILL
    assert worker.members() == {child}
    os.kill(child, signal.SIGKILL)


async def test_death_of_the_engine_core(sim: Start) -> None:
    worker = await sim("--exit-after-s", "0.5")
    child = (await worker.get("/sim/state"))["engine_core_pid"]
    stream = asyncio.create_task(worker.lines(LONG), name="stream")
    await worker.running(1)
    os.kill(child, signal.SIGKILL)
    lines = await stream
    assert lines[-1] == "[DONE]" and json.loads(lines[-2])["error"]["code"] == 500
    async with worker.session.get(worker.url + "/health") as answer:
        assert answer.status == 503
    assert (await worker.post("/v1/completions", SHORT))[0] == 500
    assert await worker.exit_code() == 0
    assert not worker.members()


async def test_sigterm_without_a_drain(sim: Start) -> None:
    worker = await sim()
    async with worker.session.post(worker.url + "/v1/completions", json=LONG) as stream:
        await read_some(stream)
        worker.process.terminate()
        with pytest.raises(aiohttp.ClientConnectorError):
            while True:  # a connection made in the very moment may be neither answered nor refused
                with contextlib.suppress(TimeoutError, aiohttp.ServerDisconnectedError):
                    await worker.get("/load")
        # vLLM ends no stream here: it stands still, and the process waits for its client.
        assert worker.process.poll() is None
    assert await worker.exit_code() == 0
    assert not worker.members()


async def test_sigterm_with_a_drain(sim: Start) -> None:
    worker = await sim("--shutdown-timeout", "5")
    stream = asyncio.create_task(worker.lines({**LONG, "max_tokens": 60}), name="stream")
    await worker.running(1)
    worker.process.terminate()
    await worker.draining()
    assert (await worker.post("/v1/completions", SHORT))[0] == 500  # the tokenizer is gone
    ids = {**SHORT, "prompt": [1, 2]}
    assert (await worker.post("/v1/completions", ids))[1]["choices"][0]["finish_reason"] == "abort"
    assert await worker.lines(ids) == ["[DONE]"]
    lines = await stream
    assert json.loads(lines[-2])["choices"][0]["finish_reason"] == "length"
    assert await worker.exit_code() == 0


async def test_a_drain_that_takes_too_long(sim: Start) -> None:
    worker = await sim("--shutdown-timeout", "0.2")
    async with worker.session.post(worker.url + "/v1/completions", json=LONG) as stream:
        await read_some(stream)
        worker.process.terminate()
        await worker.until(lambda: len(worker.members()) == 1)  # the engine core is ended
        assert worker.process.poll() is None
    assert await worker.exit_code() == 0


async def test_faults_of_one_stream(sim: Start) -> None:
    worker = await sim()
    await worker.fault("error_event", after_chunks=3, count=1)
    lines = await worker.lines(LONG)
    assert len(lines) == 5 and "error" in json.loads(lines[3]) and lines[4] == "[DONE]"
    await worker.fault("abort", after_chunks=2, count=1)
    lines = await worker.lines(LONG)
    assert json.loads(lines[2])["choices"][0]["finish_reason"] == "abort"
    await worker.fault("reset", after_chunks=2, count=1)
    with pytest.raises(aiohttp.ClientError):
        await worker.lines(LONG)
    await worker.fault("garbage", count=1)
    with pytest.raises(aiohttp.ClientError):
        await worker.lines(LONG)
    await worker.fault("garbage", after_chunks=3, count=1)
    assert (await worker.post("/v1/completions", {**SHORT, "max_tokens": 2}))[0] == 200
    body = await raw(worker, LONG)  # aiohttp's client would wait for sense to come
    assert body.count(b"\r\ndata: ") == 3 and body.endswith(b"\x01\r\n\r\n{]") and b"\r\n0\r\n" not in body
    await worker.fault("error500", count=1)
    assert (await worker.post("/v1/completions", SHORT))[0] == 500
    assert (await worker.post("/v1/completions", SHORT))[0] == 200
    await worker.running(0)


async def test_stall(sim: Start) -> None:
    worker = await sim("--fault", "stall:after_chunks=2:count=1")
    async with worker.session.post(worker.url + "/v1/completions", json=LONG) as stream:
        await read_some(stream, 2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(read_some(stream, 1), 0.15)
        assert len(await worker.lines({**LONG, "max_tokens": 3})) == 4
        assert (await worker.get("/sim/state"))["stalled"] == 1
    await worker.running(0)
    assert (await worker.get("/sim/state"))["stalled"] == 0


async def test_hang(sim: Start) -> None:
    worker = await sim()
    stream = asyncio.create_task(worker.lines({**LONG, "max_tokens": 50}), name="stream")
    await worker.running(1)
    await worker.fault("hang")
    before = await metrics(worker)
    second = asyncio.create_task(worker.post("/v1/completions", SHORT), name="second")
    await worker.running(1, 1)
    after = await metrics(worker)
    for name in ("generation_tokens_total", "num_requests_running", "num_requests_waiting"):
        assert metric(after, name) == metric(before, name)
    async with worker.session.get(worker.url + "/health") as answer:
        assert answer.status == 200
    await worker.fault("slow", factor=1)
    async with worker.session.delete(worker.url + "/sim/fault?kind=hang") as answer:
        assert answer.status == 200
    assert [fault["kind"] for fault in (await worker.get("/sim/state"))["faults"]] == ["slow"]
    assert (await stream)[-1] == "[DONE]" and (await second)[0] == 200


async def test_a_sleep_makes_whoever_asks_wait_and_a_fault_takes_the_adapters(sim: Start) -> None:
    worker = await sim("--enable-lora", VLLM_SERVER_DEV_MODE="1")
    await worker.post("/v1/load_lora_adapter", {"lora_name": "mine", "lora_path": str(adapter_path("pirate"))})
    target = Target(worker.session, worker.url)
    before = {name: await target.numbers(name, 5) for name in ("demo", "mine")}
    assert before["demo"] != before["mine"]
    await target.sleep(5)
    assert await worker.get("/is_sleeping") == {"is_sleeping": True}
    await target.healthy()
    waiting = asyncio.create_task(target.numbers("mine", 5))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    await target.wake(5)
    assert await waiting == before["mine"]
    await worker.fault("forget_lora")
    await target.sleep(5)
    await target.wake(5)
    assert {name: await target.numbers(name, 5) for name in before} == dict.fromkeys(before, before["demo"])


async def test_refuse_for_a_while(sim: Start) -> None:
    worker = await sim()
    await worker.fault("refuse", for_s=0.3)
    async with aiohttp.ClientSession() as fresh:
        with pytest.raises(aiohttp.ClientConnectorError):
            await fresh.get(worker.url + "/health")
        end = time.monotonic() + 5
        while time.monotonic() < end:
            try:
                async with fresh.get(worker.url + "/health") as answer:
                    assert answer.status == 200
                    return
            except aiohttp.ClientConnectorError:
                await asyncio.sleep(0.02)
    raise AssertionError("it did not listen again")


@pytest.mark.parametrize(("kind", "code"), [("die", -signal.SIGKILL), ("exit0", 0)])
async def test_faults_that_end_the_process(sim: Start, kind: str, code: int) -> None:
    worker = await sim("--exit-after-s", "0.1", "--fault", f"{kind}:after_chunks=2")
    try:
        lines = await worker.lines(LONG)
    except aiohttp.ClientError:
        lines = []
    assert bool(lines) == (kind == "exit0")
    assert await worker.exit_code() == code
    assert len(worker.members()) == (1 if kind == "die" else 0)


@pytest.mark.parametrize("chunks", [None, 3])
async def test_poison_kills_who_takes_it_and_nobody_else(sim: Start, chunks: int | None) -> None:
    worker = await sim("--fault", "poison" if chunks is None else f"poison:after_chunks={chunks}")
    assert (await worker.post("/v1/completions", SHORT))[0] == 200
    with pytest.raises(aiohttp.ClientError):
        async with worker.session.post(worker.url + "/v1/completions", json={**LONG, "prompt": "poison"}) as answer:
            await read_some(answer, chunks or 0)
            await answer.content.readuntil(b"\n\n")
            raise AssertionError("a token came from a worker that should be dead")
    assert await worker.exit_code() == -signal.SIGKILL
    for process in worker.members():
        os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("stream", [False, True])
async def test_poison_for_the_engine_leaves_an_api_server_that_answers_500_and_exits_with_0(
    sim: Start, stream: bool
) -> None:
    worker = await sim("--exit-after-s", "3", "--itl-ms", "30", "--fault", "poison:kills=engine")
    beside = asyncio.ensure_future(worker.lines(LONG))
    await asyncio.sleep(0.1)
    async with worker.session.post(
        worker.url + "/v1/completions", json={**SHORT, "prompt": "poison", "stream": stream}
    ) as answer:
        text = await answer.text()
    assert answer.status == (200 if stream else 500)
    assert "EngineCore encountered an issue" in text
    lines = await beside
    assert "EngineCore encountered an issue" in lines[-2] and lines[-1] == "[DONE]"
    status, later = await worker.post("/v1/completions", SHORT)
    assert status == 500 and "EngineCore encountered an issue" in str(later)
    async with worker.session.get(worker.url + "/health") as health:
        assert health.status == 503
    assert await worker.exit_code() == 0
    assert not worker.members()


async def test_slow_faults_and_lora_faults(sim: Start, tmp_path: Path) -> None:
    worker = await sim("--enable-lora")
    adapter(tmp_path / "x")
    load = {"lora_name": "x", "lora_path": str(tmp_path / "x")}
    await worker.fault("refuse_lora", count=1)
    assert (await worker.post("/v1/load_lora_adapter", load))[0] == 500
    for kind, call in (
        ("slow_lora", worker.post("/v1/load_lora_adapter", load)),
        ("slow_health", worker.get("/health")),
    ):
        await worker.fault(kind, count=1, delay_s=0.2)
        begun = time.monotonic()
        await call
        assert time.monotonic() - begun >= 0.2
    await worker.fault("slow", factor=20)
    begun = time.monotonic()
    await worker.post("/v1/completions", SHORT)
    assert time.monotonic() - begun >= 0.2


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
