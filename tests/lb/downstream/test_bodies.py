"""Bodies through a whole balancer: what is routed is what the worker is asked for, or the request is refused; large
ones arrive as they were sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from aiohttp import web

from fakes import soon
from lbfakes import Balanced, RawWorker, Worker, in_time, spec

StartWorker = Callable[..., Awaitable[Worker]]
StartRaw = Callable[..., Awaitable[RawWorker]]

JSON = {"Content-Type": "application/json"}
MIB = 1024 * 1024
ADAPTER = "X-Amzn-SageMaker-Adapter-Identifier"
COLONS = ("gpt-oss:120b", "pirate", "base")


async def send(balancer: Balanced, body: bytes, path: str = "/v1/completions", **headers: str) -> tuple[int, Any]:
    return await balancer.answer("POST", path, data=body, headers=JSON | headers)


async def chunked(body: bytes, size: int) -> Any:
    for at in range(0, len(body), size):
        yield body[at : at + size]


# two models


@pytest.mark.parametrize("filler", [0, 3 * MIB])
@pytest.mark.parametrize("second", ['"model":"b"', '"mod\\u0065l":"b"', '"model":null', '"model" : ["a"]'])
async def test_a_second_model_is_refused_however_long_the_body_is(
    balancer: Balanced, start_worker: StartWorker, filler: int, second: str
) -> None:
    worker = await start_worker()
    balancer.push(worker.spec(models=("a", "b")))
    status, answer = await send(balancer, f'{{"model":"a","prompt":"{"x" * filler}",{second}}}'.encode())
    assert (status, answer["error"]["param"]) == (400, "model") and "two models" in answer["error"]["message"]
    assert worker.seen == []


async def test_an_upload_that_names_another_model_at_its_end_is_cut_before_it_is_complete(
    balancer: Balanced, start_raw: StartRaw
) -> None:
    got, cut = bytearray(), asyncio.Event()

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            got.extend(data)
        cut.set()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        balancer.push(spec(port=port, models=("a", "b")))
        body = b'{"model":"a","prompt":"' + b"x" * (8 * MIB) + b'","model":"b"}'
        async with balancer.connection() as (reader, writer):
            writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body))
            writer.write(body[: 4 * MIB])
            await soon(lambda: len(got) > MIB, "the upload")
            writer.write(body[4 * MIB :])
            assert b" 400 Bad Request\r\n" in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        await in_time(cut)
        assert len(got) < len(body) and b'"model":"b"' not in got
    finally:
        server.close()


@pytest.mark.parametrize("length", [100, 40_000, 2 * MIB])
async def test_two_fields_of_a_form_are_refused(balancer: Balanced, start_worker: StartWorker, length: int) -> None:
    worker = await start_worker()
    balancer.push(worker.spec(models=("a", "b")))
    field = b'--xyz\r\nContent-Disposition: form-data; name="model"\r\n\r\n%b\r\n'
    file = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + b"a" * length + b"\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=xyz"}
    for body, expected in (
        (field % b"a" + file + field % b"b" + b"--xyz--\r\n", 400),
        (file + field % b"b" + b"--xyz--\r\n", 200),
        (field % b"b" + file + b"--xyz--\r\n", 200),
        (file + field % b"b" + b"--xyz\r\n", 400),
        (field % b"c" + file + b"--xyz--\r\n", 404),
    ):
        async with balancer.request("POST", "/v1/audio/transcriptions", data=body, headers=kind) as response:
            assert response.status == expected, body[:60]
        if expected == 200:
            assert worker.seen[-1].body == body
    assert len(worker.seen) == 2
    assert balancer.metric("clusterctl_model_requests_total", model="b") == 2


async def test_two_content_types_are_refused(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec())
    for second in (b"application/json", b"multipart/form-data; boundary=x"):
        answer = await balancer.raw(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Type: %b\r\n"
            b"Content-Length: 16\r\n\r\n" % second + b'{"model":"base"}'
        )
        assert answer.startswith(b"HTTP/1.1 400 ")
    assert worker.seen == []


# /invocations: vLLM takes the model from the header, and never from the body


@pytest.mark.parametrize(
    ("header", "body", "routed"),
    [
        (None, {"model": "pirate"}, "pirate"),
        ("pirate", {"model": "base"}, "pirate"),
        ("pirate", {}, "pirate"),
        (" base ", {"model": "pirate"}, "base"),
        ("gpt-oss:120b:pirate", {"model": "base"}, "pirate"),
        (None, {"model": "gpt-oss:120b:pirate"}, "pirate"),
        (None, {}, None),
    ],
)
async def test_an_invocation_is_routed_and_made_as_its_header_says(
    balancer: Balanced, start_worker: StartWorker, header: str | None, body: dict[str, str], routed: str | None
) -> None:
    worker = await start_worker()
    balancer.push(worker.spec(models=COLONS))
    given = {} if header is None else {ADAPTER: header}
    assert (await send(balancer, json.dumps({**body, "x": 1}).encode(), "/invocations", **given))[0] == 200
    (seen,) = worker.seen
    assert seen.headers.getall(ADAPTER, []) == ([] if routed is None else [routed])
    assert json.loads(seen.body) == {**({"model": routed} if body else {}), "x": 1}
    assert balancer.metric("clusterctl_model_requests_total", model=routed or "none") == 1


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ([(ADAPTER, "nobody")], {"model": "base"}, 404),
        ([(ADAPTER, "")], {"model": "base"}, 400),
        ([(ADAPTER, "base"), (ADAPTER, "pirate")], {"model": "base"}, 400),
        ([(ADAPTER.replace("-", "_"), "pirate")], {"model": "base"}, 400),
        ([(ADAPTER, "a" * 300)], {"model": "base"}, 404),
        ([], {"model": "käse"}, 400),
    ],
)
async def test_an_invocation_that_names_no_one_model_is_refused(
    balancer: Balanced, start_worker: StartWorker, headers: list[tuple[str, str]], body: dict[str, str], status: int
) -> None:
    worker = await start_worker()
    balancer.push(worker.spec(models=(*COLONS, "käse")))
    asked = [*headers, ("Content-Type", "application/json")]
    answer = await balancer.answer("POST", "/invocations", data=json.dumps(body), headers=asked)
    assert answer[0] == status and worker.seen == [] and "aaa" not in str(answer)


async def test_the_header_goes_nowhere_else(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec(models=COLONS))
    assert (await send(balancer, b'{"model":"base"}', **{ADAPTER: "pirate"}))[0] == 200
    assert ADAPTER not in worker.seen[0].headers


# BASE:NAME


@pytest.mark.parametrize("filler", [0, 100_000, 3 * MIB])
@pytest.mark.parametrize("last", [True, False])
async def test_an_adapter_behind_a_base_with_colons_is_found_and_nothing_else_changes(
    balancer: Balanced, start_worker: StartWorker, filler: int, last: bool
) -> None:
    worker = await start_worker()
    balancer.push(worker.spec(models=COLONS))
    name, rest = '"model" : "%s"', '"prompt":"\\u00e4' + "x" * filler + '"'
    text = "{ " + (f"{rest},{name}" if last else f"{name},{rest}") + " }\n"
    body = (text % "gpt-oss:120b:pirate").encode()
    for sent in (body, chunked(body, 50_000)):
        assert (await balancer.answer("POST", "/v1/completions", data=sent, headers=JSON))[0] == 200
        assert worker.seen[-1].body == (text % "pirate").encode()
    assert balancer.metric("clusterctl_model_requests_total", model="pirate") == 2


async def test_broken_json_with_such_a_name_is_the_workers_to_refuse(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    async def refuse(_: web.Request) -> web.StreamResponse:
        return web.json_response({"object": "error"}, status=400)

    worker = await start_worker(answer=refuse)
    balancer.push(worker.spec(models=COLONS))
    for body in (b'{"model":"base_model:pirate","messages":[,]}', b'{"model":"base:pirate","x":{]}',
                 b'{"model":"base_model:pirate","messages":[', b'{"messages":[,],"model":"base:pirate","n":}',
                 b'{"model":"base:pirate","x":[' + b"," * MIB):  # fmt: skip
        assert (await send(balancer, body))[0] == 400
    assert worker.seen[0].body == b'{"model":"pirate","messages":[,]}'
    assert len(worker.seen) == 5


# large ones


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/responses"])
@pytest.mark.parametrize("size", [17_000, 300_000, 5 * MIB])
async def test_a_large_body_arrives_as_it_was_sent(
    balancer: Balanced, start_worker: StartWorker, path: str, size: int
) -> None:
    worker = await start_worker()
    balancer.push(worker.spec())
    filler = (b'{"role":"user","content":"\\\\ \\"model\\": x"},[[[]]],"\\u00e4",' * (size // 55))[:-1]
    for body in (b'{"x":[' + filler + b'],"model":"base"}', b'{"model":"base","x":[' + filler + b"]}",
                 b"[" + filler + b"]", b"\x00\x01" * (size // 2)):  # fmt: skip
        for sent in (body, chunked(body, 70_001)):
            assert (await balancer.answer("POST", path, data=sent, headers=JSON))[0] == 200
            assert worker.seen[-1].body == body


async def test_a_large_body_that_was_kept_is_sent_again_where_the_first_worker_dies_of_it(
    balancer: Balanced, start_worker: StartWorker, start_raw: StartRaw
) -> None:
    async def die(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    broken, worker = await start_raw(die), await start_worker("instance_1")
    balancer.push(broken.spec(), worker.spec())
    body = b'{"prompt":"' + b"x" * (3 * MIB) + b'","model":"base"}'
    assert [(await send(balancer, body))[0] for _ in range(2)] == [200, 200]
    assert broken.requests and {seen.body for seen in worker.seen} == {body}


async def test_the_next_request_behind_a_large_one_is_read(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec())
    large = b'{"x":"' + b"a" * 2_000_000 + b'","model":"base"}'
    small = b'{"model":"base"}'
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
    last = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    bodies = [large, small, large, small]
    heads = [head, head, head, last]
    answer = await balancer.raw(b"".join(h % len(b) + b for h, b in zip(heads, bodies, strict=True)))
    assert answer.count(b"HTTP/1.1 200 ") == 4
    assert [seen.body for seen in worker.seen] == bodies


async def test_a_client_that_leaves_while_its_body_is_read_disturbs_nobody(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    worker = await start_worker()
    balancer.push(worker.spec())
    async with balancer.connection() as (_, writer):
        writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n")
        writer.write(b'{"a":[' + b"[]," * MIB)
        await writer.drain()
    assert (await send(balancer, b'{"model":"base"}'))[0] == 200
    await soon(lambda: balancer.parts.server.connections <= 1, "the end of it")
    assert len(worker.seen) == 1 and balancer.in_flight == 0


# names


async def test_long_names_are_neither_repeated_nor_remembered(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec())
    long = "n" * 900_000
    bodies = [{"model": long}, {"x": [{"y": []}], "model": long, "z": [[{}]]}, {"model": long[:257]}]
    for body in bodies:
        status, answer = await balancer.ask(**{"model": None, **body})
        assert (status, answer["error"]["param"]) == (404, "model") and "nnn" not in str(answer)
    for path in ("/v1/responses/" + long[:60_000], "/" + long[:60_000], "/v1/cluster/" + long[:60_000]):
        status, answer = await balancer.answer("GET", path)
        assert status in (404, 414) and long[:257] not in str(answer)
    status, answer = await send(balancer, json.dumps({"previous_response_id": long}).encode(), "/v1/responses")
    assert status == 404 and "nnn" not in str(answer)
    remembered = str([tuple(row) for row in balancer.parts.shared.decision_log.ring])
    assert long[:257] not in remembered and len(worker.seen) == 0
    async with balancer.request("GET", "/metrics") as response:
        assert "nnn" not in await response.text()


async def test_what_is_asked_for_by_another_name_of_a_model_is_counted_with_it(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    worker = await start_worker()
    balancer.push(worker.spec(models=("demo", "too"), expected=("demo", "too")))
    for name in ("demo", "too"):
        assert (await balancer.answer("POST", "/v1/completions", json={"model": name}))[0] == 200
        assert json.loads(worker.seen[-1].body)["model"] == name
    assert balancer.metric("clusterctl_model_requests_total", model="demo") == 2
