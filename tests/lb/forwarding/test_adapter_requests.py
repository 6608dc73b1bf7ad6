"""Requests for adapters through a whole balancer: those nobody holds yet, those a worker has lost, and the names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from config.link import encode
from fakes import soon
from lb.telemetry.shared_counters import ADAPTER
from lbfakes import Balanced, Worker, backend_set, card

StartWorker = Callable[..., Awaitable[Worker]]
StartBalancer = Callable[..., Awaitable[Balanced]]

POET = (card("poet", "base"),)


class Supervisor:
    """The other end of the balancer's link: hears all it says."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []

    async def listen(self, reader: asyncio.StreamReader) -> None:
        async for line in reader:
            self.heard.append(json.loads(line))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [message for message in self.heard if message["type"] == kind]


@pytest.fixture
async def supervisor(balancer: Balanced) -> Any:
    made = Supervisor()
    reader, writer = await asyncio.open_unix_connection(str(balancer.link_path))
    listening = asyncio.ensure_future(made.listen(reader))
    await soon(lambda: made.heard)
    yield made, writer
    writer.close()
    listening.cancel()


def missing(request_count: int) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Answers so many times as vLLM does for a model that it has not got, then as a worker that has it."""
    left = [request_count]

    async def answer(_: web.Request) -> web.StreamResponse:
        if left[0] > 0:
            left[0] -= 1
            error = {"message": "The model `poet` does not exist.", "type": "NotFoundError", "param": "model"}
            return web.json_response({"error": {**error, "code": 404}}, status=404)
        return web.json_response({"worker": "has it"})

    return answer


# one that nobody holds yet


async def test_a_request_for_one_that_nobody_holds_waits_until_somebody_does(
    balancer: Balanced, start_worker: StartWorker, supervisor: tuple[Supervisor, Any]
) -> None:
    worker, (heard, _) = await start_worker(), supervisor
    balancer.push(worker.spec(), registered=POET)
    asking = asyncio.ensure_future(balancer.ask(model="poet"))
    await soon(lambda: heard.of("want"))
    assert heard.of("want")[0] == {"type": "want", "adapter": "poet"}
    assert worker.seen == [] and not asking.done()
    balancer.push(worker.spec(models=("base", "poet")), registered=POET)
    assert await asyncio.wait_for(asking, 5) == (200, {"worker": "instance_0"})


@pytest.mark.measured
async def test_one_that_is_unloaded_while_a_request_waits_for_it_is_404_at_once(
    balancer: Balanced, start_worker: StartWorker, supervisor: tuple[Supervisor, Any]
) -> None:
    worker, (heard, _) = await start_worker(), supervisor
    balancer.push(worker.spec(models=("base",)), registered=POET)
    asking = asyncio.ensure_future(balancer.ask(model="poet"))
    await soon(lambda: heard.of("want"))
    balancer.push(worker.spec(models=("base",)))
    status, answer = await asyncio.wait_for(asking, 2)
    assert (status, answer["error"]["param"]) == (404, "model")
    assert worker.seen == []


async def test_many_who_wait_for_it_ask_for_it_once_in_a_while(
    balancer: Balanced, start_worker: StartWorker, supervisor: tuple[Supervisor, Any]
) -> None:
    worker, (heard, _) = await start_worker(), supervisor
    balancer.push(worker.spec(), registered=POET)
    asking = [asyncio.ensure_future(balancer.ask(model="poet")) for _ in range(20)]
    await soon(lambda: balancer.metric("clusterctl_queued_requests") == 20)
    assert len(heard.of("want")) <= 3
    balancer.push(worker.spec(models=("base", "poet")), registered=POET)
    assert {status for status, _ in await asyncio.gather(*asking)} == {200}


async def test_one_that_never_comes_is_503_after_the_queue_timeout(
    start_balancer: StartBalancer, start_worker: StartWorker
) -> None:
    balancer, worker = await start_balancer(queue_timeout=0.1), await start_worker()
    balancer.push(worker.spec(), registered=POET)
    status, answer = await balancer.ask(model="poet")
    assert (status, worker.seen) == (503, [])
    assert "poet" in answer["error"]["message"]


# a worker that has lost it


async def test_a_workers_404_for_a_registered_one_goes_to_another_worker(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    one = await start_worker("instance_0", missing(99))
    other = await start_worker("instance_1")
    balancer.push(*(w.spec(models=("base", "poet")) for w in (one, other)), registered=POET)
    for _ in range(6):
        assert await balancer.ask(model="poet") == (200, {"worker": "instance_1"})
    assert len(one.seen) == 1, "it is asked again only when the supervisor says so"
    assert balancer.counts("instance_0") == (0, 0), "and it is not its error"


async def test_where_all_have_lost_it_the_request_waits_for_the_supervisors_next_word(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    worker = await start_worker("instance_0", missing(1))
    spec = worker.spec(models=("base", "poet"))
    balancer.push(spec, registered=POET)
    asking = asyncio.ensure_future(balancer.ask(model="poet"))
    await soon(lambda: worker.seen and balancer.in_flight == 0)
    balancer.push(spec, registered=POET)
    assert await asyncio.wait_for(asking, 5) == (200, {"worker": "has it"})


async def test_a_worker_that_has_it_back_gets_its_requests_without_a_new_set(
    start_balancer: StartBalancer, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repair that is over before the supervisor looks changes nothing in its set, so that none is sent; nor is one
    sent after a 404 that is read when the set with the reloaded adapter is there already."""
    monkeypatch.setattr("lb.forwarding.retry.failover._MISSING_MODEL_S", 0.05)
    balancer, worker = await start_balancer(queue_timeout=1.0), await start_worker("instance_0", missing(1))
    balancer.push(worker.spec(models=("base", "poet")), registered=POET)
    assert await balancer.ask(model="poet") == (200, {"worker": "has it"})


async def test_a_workers_404_is_never_the_clients_answer(
    start_balancer: StartBalancer, start_worker: StartWorker
) -> None:
    balancer, worker = await start_balancer(queue_timeout=0.1), await start_worker("instance_0", missing(999))
    balancer.push(worker.spec(models=("base", "poet")), registered=POET)
    assert (await balancer.ask(model="poet"))[0] == 503


async def test_a_404_that_is_about_the_route_costs_no_worker_the_adapter(
    start_balancer: StartBalancer, start_worker: StartWorker
) -> None:
    """A generating model has no `/v1/embeddings`: the answer is the client's, and nobody else suffers for it."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path == "/v1/embeddings":
            return web.json_response({"detail": "Not Found"}, status=404)
        return web.json_response({"worker": "has it"})

    balancer, worker = await start_balancer(queue_timeout=0.3), await start_worker("instance_0", answer)
    balancer.push(worker.spec(models=("base", "poet")), registered=POET)
    wrong = await balancer.ask("/v1/embeddings", model="poet")
    assert await balancer.ask(model="poet") == (200, {"worker": "has it"})
    assert wrong == (404, {"detail": "Not Found"})


async def test_a_404_for_the_base_model_is_the_clients(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker("instance_0", missing(1))
    balancer.push(worker.spec(), registered=POET)
    assert (await balancer.ask(model="base"))[0] == 404


async def test_a_404_about_a_response_is_asked_for_once(
    start_balancer: StartBalancer, start_worker: StartWorker
) -> None:
    """The follow-up belongs to one worker, which has forgotten the response: asking it again and again is no help."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if b"previous_response_id" in await request.read():
            return web.json_response({"error": {"message": "Response with id 'resp_1' not found."}}, status=404)
        return web.json_response({"id": "resp_1", "object": "response"})

    balancer, worker = await start_balancer(queue_timeout=0.3), await start_worker("instance_0", answer)
    balancer.push(worker.spec(models=("base", "poet")), registered=POET)
    assert (await balancer.ask("/v1/responses", model="poet"))[0] == 200
    status, _ = await balancer.ask("/v1/responses", model="poet", previous_response_id="resp_1")
    assert (status, len(worker.seen)) == (404, 2)


# names


@pytest.mark.parametrize("name", ["base:poet", "base_model:poet"])
async def test_a_name_behind_the_bases_is_rewritten_and_nothing_else(
    balancer: Balanced, start_worker: StartWorker, name: str
) -> None:
    worker = await start_worker()
    balancer.push(worker.spec(models=("base", "poet")), registered=POET)
    body = {
        "prompt": "ä \u2603 \U0001f600", "temperature": 0.1, "seed": 2**63, "stop": None, "stream": False,
        "nested": {"model": "base:poet", "list": [1, 2.5e-7, "x"]},
    }  # fmt: skip
    assert (await balancer.ask(model=name, **body))[0] == 200
    assert json.loads(worker.seen[0].body) == {"model": "poet", **body}
    assert int(worker.seen[0].headers["Content-Length"]) == len(worker.seen[0].body)


async def test_a_body_with_a_plain_name_goes_as_it_came(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec(models=("base", "poet")), registered=POET)
    body = b'{ "model" :"poet",\n"prompt":"\\u00e4", "t": 1.0e0 }'
    headers = {"Content-Type": "application/json"}
    assert (await balancer.answer("POST", "/v1/completions", data=body, headers=headers))[0] == 200
    assert worker.seen[0].body == body


@pytest.mark.parametrize(("asked", "close"), [("poett", "'poet'"), ("bas", "'base'")])
async def test_an_unknown_name_is_404_with_the_closest(
    balancer: Balanced, start_worker: StartWorker, asked: str, close: str
) -> None:
    worker = await start_worker()
    balancer.push(worker.spec(), registered=POET)
    status, answer = await balancer.ask(model=asked)
    assert (status, answer["error"]["type"], answer["error"]["param"]) == (404, "NotFoundError", "model")
    assert asked in answer["error"]["message"] and close in answer["error"]["message"]
    assert worker.seen == []


# what is counted and told


async def test_an_adapters_requests_and_errors_are_counted(balancer: Balanced, start_worker: StartWorker) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        failed = b"fail" in await request.read()
        return web.json_response({}, status=500 if failed else 200)

    worker = await start_worker("instance_0", answer)
    balancer.push(worker.spec(models=("base", "poet")), registered=POET)
    await balancer.ask(model="poet")
    await balancer.ask(model="base:poet")
    await balancer.ask(model="poet", suffix="fail")
    await balancer.ask(model="base")
    counters = balancer.parts.counters
    assert counters.get(f"{ADAPTER}poet") == (3, 1)
    assert counters.last_used(f"{ADAPTER}poet") is not None
    assert counters.get(f"{ADAPTER}base") == (0, 0)


async def test_the_next_report_tells_what_was_used_and_the_one_after_does_not(
    balancer: Balanced, start_worker: StartWorker, supervisor: tuple[Supervisor, Any]
) -> None:
    worker, (heard, writer) = await start_worker(), supervisor
    balancer.push(worker.spec(models=("base", "poet")), registered=POET)
    await balancer.ask(model="poet")
    for revision in (8, 9):
        writer.write(encode({"type": "set", "set": backend_set(worker.spec(), revision=revision).to_json()}))
    await soon(lambda: heard.heard and heard.heard[-1].get("version") == [1, 9])
    used = [message["used"] for message in heard.of("report")]
    assert [list(use) for use in used if use] == [["poet"]]
    assert used[-1] == {}


@pytest.mark.parametrize("strategy", ["adaptive", "least_connections"])
async def test_work_is_reported_while_the_strategy_goes_by_it(
    balancer: Balanced, start_worker: StartWorker, supervisor: tuple[Supervisor, Any], strategy: str
) -> None:
    worker, (heard, writer) = await start_worker(), supervisor
    told = {"registered": POET, "strategy": strategy}
    balancer.push(worker.spec(models=("base", "poet")), **told)
    for model in ("poet", "base", "poet"):
        await balancer.ask(model=model)
    for revision in (8, 9):
        made = backend_set(worker.spec(models=("base", "poet")), revision=revision, **told)
        writer.write(encode({"type": "set", "set": made.to_json()}))
    await soon(lambda: heard.heard and heard.heard[-1].get("version") == [1, 9])
    work = [message["work"] for message in heard.of("report") if "work" in message]
    assert [list(each) for each in work] == ([["poet"]] if strategy == "adaptive" else [])
    assert all(each["poet"] >= 2 for each in work)


# who may change them


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/load_lora_adapter"), ("POST", "/v1/unload_lora_adapter"), ("GET", "/v1/lora_adapters"),
        ("GET", "/v1/lora_adapters/poet"), ("POST", "/v1/lora_adapters/poet/rollback"),
        ("POST", "/v1/load_lora_adapter/"),
    ],
)  # fmt: skip
async def test_adapter_routes_are_for_those_who_may_manage_the_cluster(
    start_balancer: StartBalancer, start_worker: StartWorker, method: str, path: str
) -> None:
    balancer, worker = await start_balancer(admin_key="secret"), await start_worker()
    balancer.push(worker.spec(), registered=POET)
    body = b"{}" if method == "POST" else b""
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{balancer.port}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    assert (await balancer.raw(head.encode() + body)).split(b" ")[1] == b"401"
    assert worker.seen == []


@pytest.mark.parametrize(
    "path", ["/v1/%6coad_lora_adapter", "/v1/x/../load_lora_adapter", "/v1/models/../cluster/scale"]
)
async def test_an_adapter_route_in_disguise_is_no_route(
    start_balancer: StartBalancer, start_worker: StartWorker, path: str
) -> None:
    balancer, worker = await start_balancer(admin_key="secret"), await start_worker()
    balancer.push(worker.spec(), registered=POET)
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    assert (await balancer.raw(head.encode())).split(b" ")[1] == b"404"
    assert worker.seen == []


async def test_a_wrong_method_on_an_adapter_route_reaches_no_worker(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    worker = await start_worker()
    balancer.push(worker.spec(), registered=POET)
    assert (await balancer.answer("GET", "/v1/load_lora_adapter"))[0] == 405
    assert worker.seen == []
