"""What a whole balancer says of the cluster: status, health and models, with a supervisor played by the test."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from adminfakes import STATUS, StartWorker, raw_control, say, supervisor
from fakes import soon
from lb.admin.bridge import BridgeEndpoint
from lbfakes import Balanced, card, closed_port, instance, read_message, snapshot, spec


async def test_status_has_every_field(balancer: Balanced) -> None:
    balancer.push(spec("instance_0"), strategy="weighted")
    async with supervisor(balancer, "instance_0"):
        status, said = await balancer.answer("GET", STATUS)
    assert status == 200
    assert {"is_running", "total_instances", "running_instances", "load_balancer_strategy"} <= set(said)
    assert (said["supervisor"]["pid"], said["load_balancer"]["pid"]) == (1234, os.getpid())
    assert said["load_balancer_strategy"] == "weighted"
    assert {
        "port", "weight", "is_running", "cpu_percent", "memory_mb", "state", "pid", "gpus", "restarts", "uptime_s",
        "in_flight", "requests_total", "errors_total", "last_exit",
    } <= set(said["instances"]["instance_0"])  # fmt: skip


async def test_running_counts_ready_workers_and_total_what_is_desired(balancer: Balanced) -> None:
    instances = {
        "instance_0": instance(), "instance_1": instance(is_running=False, state="starting"),
        "backend_0": instance(managed=False, cpu_percent=None, memory_mb=None),
    }  # fmt: skip
    balancer.push(spec("instance_0"))
    async with supervisor(balancer, total_instances=5, instances=instances):
        _, said = await balancer.answer("GET", STATUS)
    assert (said["is_running"], said["running_instances"], said["total_instances"]) == (True, 1, 5)
    assert said["instances"]["backend_0"]["managed"] is False


async def test_nothing_ready_is_not_running(balancer: Balanced) -> None:
    balancer.push(spec(state="starting"))
    assert (await balancer.answer("GET", STATUS))[1]["is_running"] is False


async def test_status_counts_clients_requests_and_errors(balancer: Balanced, start_worker: StartWorker) -> None:
    async def fail(_: web.Request) -> web.StreamResponse:
        return web.json_response({}, status=500)

    worker = await start_worker()
    balancer.push(worker.spec(weight=4))
    async with supervisor(balancer, "instance_0"):
        await balancer.ask()
        worker.answer = fail
        await balancer.ask()
        await balancer.answer("GET", "/health")
        await balancer.raw(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        _, said = await balancer.answer("GET", STATUS)
    seen = said["instances"]["instance_0"]
    assert (seen["requests_total"], seen["errors_total"], seen["in_flight"], seen["weight"]) == (2, 1, 0, 4)
    assert seen["first_byte_ms"] > 0


async def test_without_a_supervisor_status_is_what_was_last_known(balancer: Balanced) -> None:
    balancer.push(spec("instance_0"))
    async with supervisor(balancer, "instance_0"):
        assert (await balancer.answer("GET", STATUS))[1]["supervisor"]["pid"] == 1234
    status, said = await balancer.answer("GET", STATUS)
    assert (status, said["supervisor"]["pid"], said["is_running"]) == (200, None, True)
    assert said["instances"]["instance_0"]["pid"] == 4711


async def test_status_tells_how_old_it_is(balancer: Balanced) -> None:
    """A supervisor that is connected and says nothing any more, as it hangs or is short of time, is not just now."""
    async def age() -> Any:
        return (await balancer.answer("GET", STATUS))[1]["supervisor"]["age_s"]

    link = balancer.parts.link
    assert await age() is None
    async with supervisor(balancer, "instance_0") as writer:
        assert 0 <= await age() < 5
        assert link._snapshot_at is not None
        link._snapshot_at -= 90
        assert 90 <= await age() < 95
        assert (await balancer.answer("GET", STATUS))[1]["supervisor"]["pid"] == 1234
        say(writer, snapshot("instance_0", sequence=[1, 2]))
        await soon(lambda: link.snapshot["sequence"] == [1, 2])
        assert await age() < 5
    assert 0 <= await age() < 5  # nobody is there, and what is shown was said just now


async def test_short_of_time_it_answers_late_and_not_500(balancer: Balanced, monkeypatch: pytest.MonkeyPatch) -> None:
    """The way to the management API is within this process: it opens as soon as the process gets to it."""
    opened, reached = BridgeEndpoint.open, []

    async def slow(self: BridgeEndpoint, make: Any) -> Any:
        await asyncio.sleep(0.1)
        reached.append(1)
        return await opened(self, make)

    monkeypatch.setattr("lb.upstream.connections._CONNECT_S", 0.05)
    monkeypatch.setattr(BridgeEndpoint, "open", slow)
    status, said = await balancer.answer("GET", STATUS)
    assert (status, reached, said["instances"]) == (200, [1], {})


async def test_without_a_descriptor_left_the_api_is_not_broken_but_busy(
    balancer: Balanced, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none_left(self: BridgeEndpoint, make: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(BridgeEndpoint, "open", none_left)
    async with balancer.request("GET", STATUS) as response:
        error = json.loads(await response.text())["error"]
        assert (response.status, response.headers["Retry-After"]) == (503, "1")
    assert "Too many open files" in error["message"]


@pytest.mark.parametrize(("method", "path"), [("GET", "/v1/lora_adapters"), ("GET", "/v1/lora_adapters/poet"),
                                              ("POST", "/v1/cluster/scale")])  # fmt: skip
async def test_a_supervisor_that_does_not_answer_is_not_waited_for_without_end(
    balancer: Balanced, monkeypatch: pytest.MonkeyPatch, method: str, path: str
) -> None:
    monkeypatch.setattr("lb.admin.changes._QUESTION_S", 0.1)
    monkeypatch.setattr("lb.admin.changes._CHANGE_S", 0.2)
    heard = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_message(reader)
        heard.set()
        await reader.read()

    async with raw_control(balancer, silent):
        options = {"json": {"instances": 1}} if method == "POST" else {}
        status, answer = await balancer.answer(method, path, **options)
    assert heard.is_set() and status == 503
    message = answer["error"]["message"]
    assert f"has not answered in {'0.2' if method == 'POST' else '0.1'} s" in message
    assert ("may still be made" in message) == (method == "POST")


async def test_status_answers_before_any_supervisor_was_there(balancer: Balanced) -> None:
    status, said = await balancer.answer("GET", STATUS)
    assert (status, said["supervisor"]["pid"], said["instances"], said["total_instances"]) == (200, None, {}, 0)


async def test_without_a_supervisor_a_worker_that_refuses_is_shown_as_unhealthy(balancer: Balanced) -> None:
    balancer.push(spec("instance_0", closed_port()), spec("instance_1", closed_port()))
    async with supervisor(balancer, "instance_0", "instance_1"):
        pass
    async with balancer.connection() as (_, writer):
        writer.write(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n")
        await soon(lambda: balancer.counts("instance_0")[1] and balancer.counts("instance_1")[1])
        _, said = await balancer.answer("GET", STATUS)
    assert {i["state"] for i in said["instances"].values()} == {"unhealthy"}
    assert said["running_instances"] == 0


@pytest.mark.parametrize(("state", "status"), [("ready", 200), ("starting", 503), ("failed", 503), ("draining", 503)])
async def test_health_is_200_with_a_ready_worker_and_503_without(balancer: Balanced, state: str, status: int) -> None:
    balancer.push(spec(state=state))
    assert (await balancer.answer("GET", "/health"))[0] == status


async def test_models_are_the_union_each_once(balancer: Balanced) -> None:
    one, other = (card("base"), card("poet", "base")), (card("base"), card("pirate", "base"))
    balancer.push(replace(spec("instance_0"), models=one), replace(spec("instance_1"), models=other))
    status, said = await balancer.answer("GET", "/v1/models")
    assert (status, said["object"]) == (200, "list")
    assert [model["id"] for model in said["data"]] == ["base", "poet", "pirate"]


async def test_head_of_models_has_no_body(balancer: Balanced) -> None:
    balancer.push(spec())
    async with balancer.request("HEAD", "/v1/models") as response:
        assert (response.status, await response.read()) == (200, b"")


@pytest.mark.parametrize(("running", "word"), [((True, True), "healthy"), ((True, False), "degraded"),
                                               ((False, False), "unhealthy")])  # fmt: skip
async def test_system_health_has_a_word_for_it(balancer: Balanced, running: tuple[bool, bool], word: str) -> None:
    names = ["instance_0", "instance_1"]
    states = ["ready" if up else "failed" for up in running]
    balancer.push(*(spec(name, state=state) for name, state in zip(names, states, strict=True)))
    instances = {
        name: instance(name, is_running=up, state=state, reason="" if up else "it crashed")
        for name, up, state in zip(names, running, states, strict=True)
    }
    async with supervisor(balancer, total_instances=2, instances=instances):
        status, said = await balancer.answer("GET", "/v1/system/health")
    assert (status, said["status"], said["ready"], said["total"]) == (200, word, sum(running), 2)
    assert [i["healthy"] for i in said["instances"].values()] == list(running)
    assert said["supervisor"] is True


async def test_system_metrics_say_what_each_instance_did(balancer: Balanced, start_worker: StartWorker) -> None:
    workers = [await start_worker(f"instance_{n}") for n in range(2)]
    balancer.push(*(worker.spec() for worker in workers))
    async with supervisor(balancer, "instance_0", "instance_1", "instance_2"):
        for _ in range(4):
            await balancer.ask()
        status, said = await balancer.answer("GET", "/v1/system/metrics")
    one, _, idle = said["instances"].values()
    assert (status, said["requests_total"], said["errors_total"], said["active_connections"]) == (200, 4, 0, 0)
    assert (one["requests_total"], one["success_rate"], one["traffic_share"], one["healthy"]) == (2, 1.0, 0.5, True)
    assert one["mean_latency_ms"] > 0
    assert (one["cpu_percent"], one["memory_mb"], one["active_connections"]) == (12.5, 100.0, 0)
    assert (idle["requests_total"], idle["success_rate"], idle["mean_latency_ms"]) == (0, None, None)
