"""The management API, models, health and metrics: a whole balancer, with a supervisor played by the test."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from aiohttp import web
from prometheus_client.parser import text_string_to_metric_families

from config.link import SEQUENCE_HEADER, bind_unix, encode
from lb.admin.bridge import BridgeEndpoint
from lbfakes import (
    Balanced,
    RawHandler,
    Worker,
    card,
    closed_port,
    instance,
    raw_answer,
    read_message,
    snapshot,
    spec,
    until,
)

StartWorker = Callable[..., Awaitable[Worker]]
StartBalancer = Callable[..., Awaitable[Balanced]]

STATUS = "/v1/cluster/status"
CHANGES = [("POST", "/v1/cluster/scale"), ("POST", "/v1/cluster/strategy"), ("POST", "/v1/cluster/restart"),
           ("POST", "/v1/cluster/shutdown"), ("PATCH", "/v1/cluster/instances/instance_0"),
           ("POST", "/v1/cluster/apply"), ("POST", "/v1/cluster/instances/instance_0/drain"),
           ("DELETE", "/v1/cluster/instances/instance_0/drain")]  # fmt: skip


@dataclass
class Control:
    """A supervisor's control API that gives one answer."""

    status: int = 202
    body: dict[str, Any] = field(default_factory=lambda: {"desired": 3, "current": 2})
    headers: dict[str, str] = field(default_factory=dict)
    seen: list[tuple[str, str, bytes]] = field(default_factory=list)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append((request.method, request.raw_path, await request.read()))
        return web.json_response(self.body, status=self.status, headers=self.headers)


@asynccontextmanager
async def control(balancer: Balanced, **fields: Any) -> AsyncIterator[Control]:
    made = Control(**fields)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", made.handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.SockSite(runner, bind_unix(balancer.state_dir / "control.sock")).start()
    try:
        yield made
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw_control(balancer: Balanced, answer: RawHandler) -> AsyncIterator[None]:
    """A supervisor that dies in the middle of a change."""
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(reader, writer)
        writer.close()

    server = await asyncio.start_unix_server(connected, sock=bind_unix(balancer.state_dir / "control.sock"))
    try:
        yield
    finally:
        server.close()


@asynccontextmanager
async def supervisor(balancer: Balanced, *names: str, **fields: Any) -> AsyncIterator[asyncio.StreamWriter]:
    """Connects as a supervisor does and says its snapshot."""
    reader, writer = await asyncio.open_unix_connection(str(balancer.link_path))
    try:
        await reader.readline()
        say(writer, snapshot(*names, **fields))
        await until(lambda: balancer.parts.link.snapshot.get("instances") is not None)
        yield writer
    finally:
        writer.close()
        await until(lambda: not balancer.parts.link.alive)


def say(writer: asyncio.StreamWriter, words: dict[str, Any]) -> None:
    writer.write(encode({"type": "snapshot", "snapshot": words}))


async def change(balancer: Balanced, body: Any = None, method: str = "POST", path: str = "/v1/cluster/scale") -> Any:
    return await balancer.answer(method, path, json={"instances": 3} if body is None else body)


# status


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
        await until(lambda: link.snapshot["sequence"] == [1, 2])
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
        await until(lambda: balancer.counts("instance_0")[1] and balancer.counts("instance_1")[1])
        _, said = await balancer.answer("GET", STATUS)
    assert {i["state"] for i in said["instances"].values()} == {"unhealthy"}
    assert said["running_instances"] == 0


# who may


@pytest.mark.parametrize("path", [STATUS, "/v1/system/health", "/v1/system/metrics", "/v1/cluster/instances/x/logs",
                                  "/v1/cluster/nothing", "/v1/clusterwide"])  # fmt: skip
@pytest.mark.parametrize(("headers", "status"), [({"X-Forwarded-For": "1.2.3.4"}, 403), ({"Host": "evil.example"}, 403),
                                                 ({"Origin": "http://evil.example"}, 403)])  # fmt: skip
async def test_a_stranger_is_refused_whatever_is_asked(
    balancer: Balanced, path: str, headers: dict[str, str], status: int
) -> None:
    got, answer = await balancer.answer("GET", path, headers=headers)
    assert (got, answer["error"]["type"]) == (status, "PermissionDeniedError")


@pytest.mark.parametrize("path", ["/v1/%63luster/status", "/v1/cluster/%73tatus", "//v1/cluster/status",
                                  "/x/../v1/cluster/status", "/v1/./cluster/status", "/v1%2Fcluster/status",
                                  "http://localhost/v1/cluster/status"])  # fmt: skip
async def test_no_other_spelling_of_the_path_gets_round_the_guard(start_balancer: StartBalancer, path: str) -> None:
    balancer = await start_balancer(admin_key="key")
    head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = await balancer.raw(head.encode())
    assert answer.split(b" ")[1] in (b"401", b"403", b"404")
    assert b"supervisor" not in answer


@pytest.mark.parametrize(("method", "path"), CHANGES)
async def test_a_change_that_is_not_declared_as_json_reaches_no_supervisor(
    balancer: Balanced, method: str, path: str
) -> None:
    async with control(balancer) as supervised:
        options = {"data": b'{"instances": 3}', "headers": {"Content-Type": "text/plain"}}
        status, answer = await balancer.answer(method, path, **options)
    assert (status, answer["error"]["type"]) == (415, "UnsupportedMediaTypeError")
    assert supervised.seen == []


async def test_a_change_of_more_bytes_than_any_has_reaches_no_supervisor(balancer: Balanced) -> None:
    options = {"headers": {"Content-Type": "application/json"}}
    async with control(balancer) as supervised:
        for data in (b'{"a": "' + b"x" * 300_000 + b'"}', b" " * 3_000_000):
            status, answer = await balancer.answer("POST", "/v1/cluster/apply", data=data, **options)
            assert (status, answer["error"]["type"]) == (413, "RequestTooLargeError")
    assert supervised.seen == []


async def test_with_a_key_it_takes_the_key(start_balancer: StartBalancer) -> None:
    balancer = await start_balancer(admin_key="key")
    assert (await balancer.answer("GET", STATUS))[0] == 401
    assert (await balancer.answer("GET", STATUS, headers={"Authorization": "Bearer wrong"}))[0] == 401
    assert (await balancer.answer("GET", STATUS, headers={"Authorization": "Bearer key"}))[0] == 200


async def test_a_key_may_be_any_text(start_balancer: StartBalancer) -> None:
    balancer = await start_balancer(admin_key="schlüssel")
    head = b"GET /v1/cluster/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    answer = await balancer.raw(head + "Authorization: Bearer schlüssel\r\n\r\n".encode())
    assert answer.startswith(b"HTTP/1.1 200")


async def test_a_key_that_is_no_text_is_401_and_no_error_of_ours(start_balancer: StartBalancer) -> None:
    balancer = await start_balancer(admin_key="key")
    head = b"GET /v1/cluster/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    assert (await balancer.raw(head + b"Authorization: Bearer \xff\r\n\r\n")).startswith(b"HTTP/1.1 401")


async def test_traffic_models_and_health_need_no_key(start_balancer: StartBalancer, start_worker: StartWorker) -> None:
    balancer = await start_balancer(admin_key="key")
    balancer.push((await start_worker()).spec())
    for path in ("/health", "/v1/models", "/version"):
        assert (await balancer.answer("GET", path, headers={"Host": "any.example"}))[0] == 200


# changes


@pytest.mark.parametrize(("method", "path"), CHANGES)
async def test_a_change_is_passed_on_as_it_is_and_so_is_its_answer(balancer: Balanced, method: str, path: str) -> None:
    async with control(balancer) as supervised:
        got = await change(balancer, {"a": "ä"}, method, path)
    assert got == (202, {"desired": 3, "current": 2})
    ((seen_method, seen_path, seen_body),) = supervised.seen
    assert (seen_method, seen_path, json.loads(seen_body)) == (method, path, {"a": "ä"})


@pytest.mark.parametrize("status", [400, 404, 409])
async def test_what_the_supervisor_refuses_is_passed_back(balancer: Balanced, status: int) -> None:
    error = {"error": {"message": "count: a whole number is needed", "type": "BadRequestError", "param": "count"}}
    async with control(balancer, status=status, body=error):
        assert await change(balancer) == (status, error)


@pytest.mark.parametrize(("method", "path"), CHANGES)
async def test_without_a_supervisor_a_change_is_503(balancer: Balanced, method: str, path: str) -> None:
    status, answer = await change(balancer, {}, method, path)
    assert (status, answer["error"]["type"]) == (503, "ServiceUnavailableError")


async def test_a_socket_that_a_dead_supervisor_left_is_503(balancer: Balanced) -> None:
    bind_unix(balancer.state_dir / "control.sock").close()
    assert (await change(balancer))[0] == 503


async def hang_up_unread(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.pause_reading()
    writer.transport.abort()


async def hang_up_after_reading(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await read_message(reader)


async def hang_up_within_the_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await read_message(reader)
    await raw_answer(b"HTTP/1.1 202 Accepted\r\nContent-Length: 50\r\n\r\n{")(reader, writer)


@pytest.mark.parametrize("death", [hang_up_unread, hang_up_after_reading, hang_up_within_the_answer])
async def test_a_supervisor_that_dies_within_a_change_is_503(balancer: Balanced, death: RawHandler) -> None:
    async with raw_control(balancer, death):
        assert (await change(balancer))[0] == 503


async def test_an_answer_is_passed_back_once_it_shows_in_status(balancer: Balanced) -> None:
    async with supervisor(balancer, "instance_0") as writer, control(balancer, headers={SEQUENCE_HEADER: "1.2"}) as c:
        asking = asyncio.ensure_future(change(balancer))
        await until(lambda: c.seen)
        assert not asking.done()
        say(writer, snapshot("instance_0", "instance_1", sequence=[1, 2]))
        assert (await asking)[0] == 202
        assert (await balancer.answer("GET", STATUS))[1]["total_instances"] == 2


async def test_adapters_have_the_same_head_without_their_body(balancer: Balanced) -> None:
    async with control(balancer, status=200, body={"adapters": []}):
        heads = []
        for method in ("GET", "HEAD"):
            async with balancer.request(method, "/v1/lora_adapters") as response:
                heads.append((response.status, response.headers["Content-Type"], response.headers["Content-Length"]))
                body = await response.read()
    assert heads[0] == heads[1] == (200, "application/json; charset=utf-8", "16")
    assert not body


@pytest.mark.parametrize(("method", "path"), [
    ("GET", "/v1/cluster/scale"), ("DELETE", "/v1/cluster/restart"), ("POST", STATUS), ("PUT", "/v1/cluster/strategy"),
    ("GET", "/v1/cluster/instances/instance_0/drain"), ("GET", "/v1/cluster/apply"),
    ("GET", "/v1/cluster/instances/instance_0"), ("POST", "/v1/system/health"), ("POST", "/v1/models"),
    ("POST", "/health"), ("POST", "/metrics"),
])  # fmt: skip
async def test_a_wrong_method_is_405(balancer: Balanced, method: str, path: str) -> None:
    status, answer = await balancer.answer(method, path, json={})
    assert (status, answer["error"]["type"]) == (405, "MethodNotAllowedError")


async def test_an_unknown_route_of_the_management_is_404(balancer: Balanced) -> None:
    assert (await balancer.answer("GET", "/v1/cluster/nothing"))[0] == 404


# health, models, system


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


# metrics


def families(text: str) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for family in text_string_to_metric_families(text):
        assert family.name not in found, f"{family.name} is there twice"
        found[family.name] = family.samples
    return found


async def scrape(balancer: Balanced) -> dict[str, list[Any]]:
    async with balancer.request("GET", "/metrics") as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain")
        return families(await response.text())


async def vllm_metrics(_: web.Request) -> web.StreamResponse:
    text = '# HELP vllm:running R\n# TYPE vllm:running gauge\nvllm:running{model_name="a b}c\\"d"} 3\n'
    return web.Response(text=text)


async def test_metrics_are_ours_and_every_workers(balancer: Balanced, start_worker: StartWorker) -> None:
    workers = [await start_worker(f"instance_{n}", vllm_metrics) for n in range(2)]
    balancer.push(*(worker.spec(weight=3) for worker in workers))
    async with supervisor(balancer, "instance_0", "instance_1"):
        found = await scrape(balancer)
    assert {s.labels["instance"] for s in found["vllm:running"]} == {"instance_0", "instance_1"}
    assert {s.labels["model_name"] for s in found["vllm:running"]} == {'a b}c"d'}
    assert [s.value for s in found["clusterctl_instance_weight"]] == [3, 3]
    assert [s.value for s in found["clusterctl_supervisor_up"]] == [1]
    assert [s.value for s in found["clusterctl_instances_desired"]] == [2]
    restarts = {s.labels["instance"]: s.value for s in found["clusterctl_instance_restarts"]}
    assert restarts == {"instance_0": 2, "instance_1": 2}


async def test_metrics_tell_of_stalls(balancer: Balanced) -> None:
    instances = {"instance_0": instance("instance_0", stalls=2), "instance_1": instance("instance_1")}
    async with supervisor(balancer, instances=instances):
        found = await scrape(balancer)
    stalls = {s.labels["instance"]: s.value for s in found["clusterctl_stalls"]}
    assert stalls == {"instance_0": 2, "instance_1": 0}


async def test_a_worker_that_gives_no_metrics_is_left_out(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker("instance_1", vllm_metrics)
    balancer.push(spec("instance_0", closed_port()), worker.spec())
    found = await scrape(balancer)
    assert {s.labels["instance"] for s in found["vllm:running"]} == {"instance_1"}


async def test_only_workers_that_are_there_are_asked(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker(answer=vllm_metrics)
    balancer.push(worker.spec(state="starting"))
    assert "vllm:running" not in await scrape(balancer)
    assert worker.seen == []


async def test_metrics_of_attached_backends_without_cpu_figures_are_no_error(balancer: Balanced) -> None:
    backend = instance("backend_0", managed=False, cpu_percent=None, memory_mb=None)
    async with supervisor(balancer, instances={"backend_0": backend}):
        found = await scrape(balancer)
    assert [s.value for s in found["clusterctl_instance_cpu_percent"]] == [0]


async def test_an_attached_cluster_does_not_spoil_the_exposition(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    async def another_cluster(_: web.Request) -> web.StreamResponse:
        return web.Response(text='# TYPE clusterctl_in_flight gauge\nclusterctl_in_flight{instance="instance_0"} 3\n')

    worker = await start_worker("backend_0", another_cluster)
    balancer.push(worker.spec(managed=False))
    found = await scrape(balancer)
    assert "backend_0" in {s.labels["instance"] for s in found["clusterctl_in_flight"]}


# logs


async def test_a_log_is_shown_by_its_end(balancer: Balanced) -> None:
    log = balancer.state_dir / "x.log"
    log.write_text("one\ntwo\nthree\n")
    async with supervisor(balancer, instances={"instance_0": instance(log=str(log))}):
        async with balancer.request("GET", "/v1/cluster/instances/instance_0/logs?lines=2") as response:
            assert (response.status, await response.text()) == (200, "two\nthree\n")


async def test_the_balancers_own_log_is_there_too(balancer: Balanced) -> None:
    (balancer.state_dir / "logs").mkdir()
    (balancer.state_dir / "logs" / "balancer.log").write_text("hello\n")
    async with balancer.request("GET", "/v1/cluster/instances/balancer/logs") as response:
        assert await response.text() == "hello\n"


@pytest.mark.parametrize("name", ["nobody", "..%2F..%2Fetc%2Fpasswd", "backend_0"])
async def test_a_log_that_is_not_there_is_404(balancer: Balanced, name: str) -> None:
    async with supervisor(balancer, instances={"backend_0": {**instance(), "log": None}}):
        answer = await balancer.raw(
            f"GET /v1/cluster/instances/{name}/logs HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
        )
    assert answer.startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize("lines", ["x", "-1", "100001", "1.5"])
async def test_a_number_of_lines_that_is_none_is_400(balancer: Balanced, lines: str) -> None:
    status, answer = await balancer.answer("GET", f"/v1/cluster/instances/balancer/logs?lines={lines}")
    assert (status, answer["error"]["param"]) == (400, "lines")
