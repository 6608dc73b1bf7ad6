"""The simulator as a process: how it dies, and how it is asked to end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal

import aiohttp
import pytest

from fakes import soon
from simprocesses import LONG, SHORT, Start, read_some

pytestmark = pytest.mark.processes


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
        await soon(lambda: len(worker.members()) == 1)  # the engine core is ended
        assert worker.process.poll() is None
    assert await worker.exit_code() == 0
