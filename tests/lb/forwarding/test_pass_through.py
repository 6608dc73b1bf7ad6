"""What goes through a whole balancer between real sockets, and when."""

from __future__ import annotations

import asyncio
import gzip

import pytest
from aiohttp import web

from fakes import soon
from heldanswers import Held, StartBalancer, StartRaw, StartWorker, chunk
from lbfakes import Balanced, raw_answer

# what goes through


@pytest.mark.parametrize("status", [200, 201, 202, 301, 400, 404, 409, 418, 422, 429, 500, 503, 599])
async def test_any_status_goes_through_with_its_body(
    balancer: Balanced, start_worker: StartWorker, status: int
) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(status=status, reason="Because", body=b"whatever", headers={"Location": "/x"})

    balancer.push((await start_worker(answer=answer)).spec())
    async with balancer.request("GET", "/version", allow_redirects=False) as response:
        assert (response.status, response.reason, await response.read()) == (status, "Because", b"whatever")


@pytest.mark.parametrize("kind", ["application/json", "text/plain; charset=latin-1", "audio/mpeg", "image/png", "x/y"])
async def test_any_content_type_goes_through(balancer: Balanced, start_worker: StartWorker, kind: str) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=bytes(range(256)), headers={"Content-Type": kind})

    balancer.push((await start_worker(answer=answer)).spec())
    async with balancer.request("GET", "/version") as response:
        assert (response.headers["Content-Type"], await response.read()) == (kind, bytes(range(256)))


async def test_headers_go_both_ways_repeated_ones_too(balancer: Balanced, start_worker: StartWorker) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        response = web.Response(headers={"X-Vllm": "1"})
        response.headers.extend([("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")])
        return response

    worker = await start_worker(answer=answer)
    balancer.push(worker.spec())
    async with balancer.request("GET", "/version", headers=[("Accept", "a"), ("Accept", "b")]) as response:
        assert response.headers["X-Vllm"] == "1"
        assert response.headers.getall("Set-Cookie") == ["a=1", "b=2"]
    assert worker.seen[0].headers.getall("Accept") == ["a", "b"]


async def test_a_header_outside_ascii_goes_through_as_it_is(balancer: Balanced, start_worker: StartWorker) -> None:
    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(headers={"X-Title": "Käse €"})

    worker = await start_worker(answer=answer)
    balancer.push(worker.spec())
    async with balancer.request("GET", "/version", headers={"X-Session-Id": "Käse €"}) as response:
        assert response.headers["X-Title"] == "Käse €"
    assert worker.seen[0].headers["X-Session-Id"] == "Käse €"


async def test_nothing_is_added_to_what_the_client_says_of_itself(balancer: Balanced, start_raw: StartRaw) -> None:
    worker = await start_raw(raw_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
    balancer.push(worker.spec())
    await balancer.raw(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    names = {line.split(b":")[0].lower() for line in worker.requests[0].split(b"\r\n")[1:] if line}
    ours = {b"x-request-id", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"}
    assert names <= ours | {b"host", b"connection"}


async def test_a_request_keeps_its_id_and_the_answer_says_it(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec())
    async with balancer.request("GET", "/version", headers={"X-Request-Id": "mine"}) as response:
        assert response.headers.getall("X-Request-Id") == ["mine"]
    assert worker.seen[0].headers["X-Request-Id"] == "mine"


async def test_without_an_id_it_gets_one(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec())
    async with balancer.request("GET", "/version") as response:
        assert response.headers["X-Request-Id"] == worker.seen[0].headers["X-Request-Id"] != ""


async def test_head_has_the_length_and_no_body(balancer: Balanced, start_raw: StartRaw) -> None:
    worker = await start_raw(raw_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n"))
    balancer.push(worker.spec())
    answer = await balancer.raw(b"HEAD /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"content-length: 1234" in head.lower()
    assert body == b""
    assert worker.requests[0].startswith(b"HEAD /version ")


@pytest.mark.parametrize("head", [b"204 No Content\r\n", b"304 Not Modified\r\nETag: x\r\n"])
async def test_answers_without_a_body_have_none(balancer: Balanced, start_raw: StartRaw, head: bytes) -> None:
    worker = await start_raw(raw_answer(b"HTTP/1.1 " + head + b"\r\n"))
    balancer.push(worker.spec())
    answer = await balancer.raw(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 " + head[:3])
    assert b"chunked" not in answer.lower()
    assert answer.endswith(b"\r\n\r\n")
    assert answer.count(b"\r\n\r\n") == 1


@pytest.mark.parametrize("query", ["?a=%2F%20b+c&x=%C3%A4", "?q=a|b^c&&=", "", "?a=1?b=2", "?%zz"])
async def test_the_query_goes_through_byte_by_byte(balancer: Balanced, start_raw: StartRaw, query: str) -> None:
    worker = await start_raw(raw_answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"))
    balancer.push(worker.spec())
    await balancer.raw(f"GET /version{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert worker.requests[0].split(b" ")[1] == f"/version{query}".encode()


async def test_a_request_by_its_whole_url_is_the_same_request(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec())
    request = f"GET {balancer.url}/version?a=%2F HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert (await balancer.raw(request.encode())).startswith(b"HTTP/1.1 200")
    assert worker.seen[0].target == "/version?a=%2F"


async def test_a_compressed_answer_stays_compressed(balancer: Balanced, start_worker: StartWorker) -> None:
    packed = gzip.compress(b'{"a": 1}')

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=packed, headers={"Content-Encoding": "gzip"})

    worker = await start_worker(answer=answer)
    balancer.push(worker.spec())
    async with balancer.request("GET", "/version", headers={"Accept-Encoding": "gzip"}) as response:
        assert (response.headers["Content-Encoding"], await response.read()) == ("gzip", packed)
        assert response.headers["Content-Length"] == str(len(packed))
    assert worker.seen[0].headers["Accept-Encoding"] == "gzip"


async def test_a_compressed_request_is_refused_as_its_model_cannot_be_read(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    worker, packed = await start_worker(), gzip.compress(b'{"model": "base"}')
    balancer.push(worker.spec())
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    async with balancer.request("POST", "/v1/completions", data=packed, headers=headers) as response:
        assert (response.status, response.headers["Accept-Encoding"]) == (415, "identity")
    assert worker.seen == []
    headers["Content-Encoding"] = "identity"
    assert (await balancer.answer("POST", "/v1/completions", data=b"{}", headers=headers))[0] == 200


async def test_only_what_an_engine_reads_goes_up_and_what_is_asked_for_besides(
    start_balancer: StartBalancer, start_worker: StartWorker
) -> None:
    worker, balancer = await start_worker(), await start_balancer(forward_headers=("x-tenant",))
    balancer.push(worker.spec())
    given = {"Cookie": "a=1", "X-Api-Key": "k", "X-Real-IP": "10.0.0.1", "X-Tenant": "t", "X_Tenant": "u",
             "traceparent": "00-1", "Origin": "http://a.example"}  # fmt: skip
    async with balancer.request("POST", "/v1/completions", json={"model": "base"}, headers=given) as response:
        assert (response.status, response.headers.getall("Server")) == (200, ["clusterctl"])
    seen = worker.seen[0].headers
    assert (seen["X-Tenant"], seen["traceparent"]) == ("t", "00-1")
    assert not {"Cookie", "X-Api-Key", "X-Real-IP", "X_Tenant", "Origin"} & set(seen)


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/nowhere", "/ui", "/v1/cluster/status"])
async def test_no_answer_of_our_own_says_what_it_is_made_of(balancer: Balanced, path: str) -> None:
    async with balancer.request("GET", path) as response:
        assert response.headers.getall("Server") == ["clusterctl"]


async def test_multipart_goes_through_byte_by_byte(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec())
    body = b'--B\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n\x00\xff\r\n--B--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=B"}
    assert (await balancer.answer("POST", "/v1/audio/transcriptions", data=body, headers=headers))[0] == 200
    assert (worker.seen[0].body, worker.seen[0].headers["Content-Type"]) == (body, headers["Content-Type"])


@pytest.mark.parametrize("body", [b"", b"not json", b"[1, 2]", b"\xff\x00", b'{"model": 7}'])
async def test_a_body_that_says_nothing_is_the_workers_to_judge(
    balancer: Balanced, start_worker: StartWorker, body: bytes
) -> None:
    worker = await start_worker()
    balancer.push(worker.spec())
    headers = {"Content-Type": "application/json"}
    assert (await balancer.answer("POST", "/v1/completions", data=body, headers=headers))[0] == 200
    assert worker.seen[0].body == body


async def test_a_chunked_request_arrives_whole(balancer: Balanced, start_worker: StartWorker) -> None:
    worker = await start_worker()
    balancer.push(worker.spec())
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    await balancer.raw(head + chunk(b'{"model":') + chunk(b'"base"}') + b"0\r\n\r\n")
    assert worker.seen[0].body == b'{"model":"base"}'


async def test_a_big_answer_goes_through_whole(balancer: Balanced, start_worker: StartWorker) -> None:
    big = bytes(range(256)) * 20_000

    async def answer(_: web.Request) -> web.StreamResponse:
        return web.Response(body=big)

    balancer.push((await start_worker(answer=answer)).spec())
    async with balancer.request("GET", "/version") as response:
        assert await response.read() == big


async def test_a_request_is_over_however_many_pieces_its_answer_came_in(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    pieces: asyncio.Queue[bytes] = asyncio.Queue()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while piece := await pieces.get():
            await response.write(piece)
        return response

    balancer.push((await start_worker(answer=answer)).spec())
    for count in (15, 16, 17, 32):
        pieces.put_nowait(b"0")
        async with balancer.generate("/ping") as response:
            for number in range(1, count):
                await response.content.readany()  # so that each comes by itself
                pieces.put_nowait(b"%d" % number)
            pieces.put_nowait(b"")
            await response.read()
        assert (response.status, balancer.in_flight) == (200, 0)


async def test_an_answer_that_ends_with_its_connection_is_complete(balancer: Balanced, start_raw: StartRaw) -> None:
    worker = await start_raw(raw_answer(b"HTTP/1.1 200 OK\r\n\r\nto the end"))
    balancer.push(worker.spec())
    async with balancer.request("GET", "/version") as response:
        assert await response.read() == b"to the end"
    assert balancer.counts() == (1, 0)


# as it comes


async def test_the_first_chunk_goes_out_before_the_second_comes_in(
    balancer: Balanced, start_worker: StartWorker
) -> None:
    held = Held()
    balancer.push((await start_worker(answer=held)).spec())
    async with balancer.generate() as response:
        assert await asyncio.wait_for(response.content.readany(), 2) == b"data: one\n\n"
        assert not held.go_on.is_set()
        assert balancer.in_flight == 1
        held.go_on.set()
        assert await response.read() == b"data: [DONE]\n\n"
    await soon(lambda: balancer.in_flight == 0)
    assert balancer.counts() == (1, 0)


async def test_the_time_to_the_first_byte_is_measured(balancer: Balanced, start_worker: StartWorker) -> None:
    held = Held()
    balancer.push((await start_worker(answer=held)).spec())
    async with balancer.generate() as response:
        await response.content.readany()
        assert 0 < (balancer.parts.pool.backends["instance_0"].latency.value or 0) < 2
        held.go_on.set()
