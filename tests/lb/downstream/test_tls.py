"""TLS on the one port: what is spoken, what is refused, and that all that is measured on a socket stays right."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from certificates import Issued, authority, issue
from fakes import soon
from lb.downstream import certificate, tls
from lb.protocol.errors import ProxyError
from lb.protocol.http1 import request as head_of
from lb.protocol.tenant import ANYBODY
from lbfakes import DEADLINE_S, Balanced, Worker
from slowanswers import STREAM, Slow, post

StartWorker = Callable[..., Awaitable[Worker]]
StartBalancer = Callable[..., Awaitable[Balanced]]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

GET = b"GET /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


@pytest.fixture
def served(tmp_path: Path) -> Issued:
    return issue(tmp_path / "certificates")


@pytest.fixture
async def secure(start_balancer: StartBalancer, served: Issued) -> Balanced:
    return await start_balancer(tls=served.files)


@asynccontextmanager
async def connected(balancer: Balanced, context: ssl.SSLContext) -> AsyncIterator[Streams]:
    reader, writer = await asyncio.open_connection("127.0.0.1", balancer.port, ssl=context)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def head(reader: asyncio.StreamReader) -> bytes:
    return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), DEADLINE_S)


def client(balancer: Balanced, context: ssl.SSLContext, **options: Any) -> httpx.AsyncClient:
    base = f"https://127.0.0.1:{balancer.port}"
    return httpx.AsyncClient(base_url=base, verify=context, trust_env=False, timeout=DEADLINE_S, **options)


async def test_requests_are_answered_one_after_the_other(
    secure: Balanced, served: Issued, start_worker: StartWorker
) -> None:
    secure.push((await start_worker()).spec())
    async with client(secure, served.trusted()) as asked:
        for _ in range(3):
            answer = await asked.post("/v1/completions", json={"model": "base", "prompt": "x"})
            assert answer.status_code == 200, answer.text
    assert len(secure.parts.server._connections) <= 1


async def test_a_worker_is_told_that_it_is_https(
    secure: Balanced, served: Issued, start_worker: StartWorker
) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"proto": request.headers.get("X-Forwarded-Proto")})

    secure.push((await start_worker(answer=answer)).spec())
    async with client(secure, served.trusted()) as asked:
        found = await asked.post("/v1/completions", json={"model": "base", "prompt": "x"})
    assert found.json() == {"proto": "https"}


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_both_versions_speak_http1(secure: Balanced, served: Issued, version: ssl.TLSVersion) -> None:
    context = served.trusted()
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with connected(secure, context) as (reader, writer):
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        for _ in range(2):
            writer.write(GET)
            assert b"200 OK" in await head(reader)


async def test_what_is_older_is_refused(secure: Balanced, served: Issued) -> None:
    context = served.trusted()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        async with connected(secure, context):
            pass


async def test_plain_http_is_told_so(secure: Balanced) -> None:
    answer = await secure.raw(GET)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert b"https://" in answer.partition(b"\r\n\r\n")[2]


async def test_nothing_that_strangers_send_gets_into_the_log(
    secure: Balanced, served: Issued, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for sent in (b"\x16\x03\x01\x00\x05hello", b"\x16" + bytes(600), b"\0", b"SSH-2.0-x\r\n"):
        await secure.raw(sent)
    with pytest.raises(ssl.SSLError):  # one that trusts others
        async with connected(secure, ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)):
            pass
    async with connected(secure, served.trusted()) as (reader, writer):
        os.write(writer.get_extra_info("socket").fileno(), b"\x17\x03\x03\x00\x20" + bytes(32))  # nobody's record
        with pytest.raises(ssl.SSLError, match="bad record mac"):
            await asyncio.wait_for(reader.read(), DEADLINE_S)
    await soon(lambda: not secure.parts.server._connections)
    assert [r for r in caplog.records if r.name.startswith(("lb", "asyncio"))] == []


@pytest.mark.measured
async def test_a_handshake_has_as_long_as_a_head(start_balancer: StartBalancer, served: Issued) -> None:
    balancer = await start_balancer(tls=served.files, head_timeout=0.3)
    began = time.monotonic()
    async with balancer.connection() as (reader, writer), connected(balancer, served.trusted()) as (other, _):
        writer.write(b"\x16\x03\x01\x02\x00\x01")
        assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""
        assert 0.2 < time.monotonic() - began < 3
        assert await asyncio.wait_for(other.read(), DEADLINE_S) == b""  # nor does one that is complete get longer


async def test_one_address_has_a_share_of_the_handshakes(
    start_balancer: StartBalancer, served: Issued, monkeypatch: pytest.MonkeyPatch
) -> None:
    balancer = await start_balancer(tls=served.files, max_client_uploads=2)
    crowd = balancer.parts.server.admission.crowd
    monkeypatch.setattr(crowd, "_shared", lambda peer: False)
    async with balancer.connection(), balancer.connection():
        await soon(lambda: crowd.size == 2)
        assert await balancer.raw(b"") == b""
    await soon(lambda: crowd.size == 0)
    async with connected(balancer, served.trusted()), connected(balancer, served.trusted()):
        async with connected(balancer, served.trusted()) as (reader, writer):  # those that are complete are none
            writer.write(GET)
            assert b"200 OK" in await head(reader)
    await soon(lambda: crowd.size == 0)
    assert not crowd._uploads


async def test_who_is_one_too_many_costs_no_handshake(start_balancer: StartBalancer, served: Issued) -> None:
    balancer = await start_balancer(tls=served.files, max_connections=16)
    server = balancer.parts.server
    limits = server.admission.limits
    held = [await asyncio.open_connection("127.0.0.1", balancer.port) for _ in range(16 + limits.reserve)]
    try:
        await soon(lambda: server.connections == len(held))
        for _, writer in held[16:]:
            writer.write(b"\x16")  # silent, and so nobody's loss: one of them makes room for an operator
        async with connected(balancer, served.trusted()) as (reader, writer):
            writer.write(post() + GET)
            assert b"503" in await head(reader)
        async with connected(balancer, served.trusted()) as (reader, writer):
            writer.write(GET)
            assert b"200" in await head(reader)
    finally:
        for _, writer in held:
            writer.close()


# client certificates


@pytest.fixture
async def mutual(start_balancer: StartBalancer, served: Issued, tmp_path: Path) -> tuple[Balanced, Issued]:
    trusted = authority(tmp_path / "ca")
    return await start_balancer(tls=replace(served.files, client_ca=str(trusted.cert))), trusted


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_a_client_shows_a_certificate_of_the_authority(
    mutual: tuple[Balanced, Issued], served: Issued, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    balancer, trusted = mutual
    ours, foreign = issue(tmp_path / "clients", "app", trusted), issue(tmp_path / "clients", "other")
    context = served.trusted(ours)
    context.minimum_version = context.maximum_version = version
    async with client(balancer, context) as asked:
        assert (await asked.get("/v1/models")).status_code == 200
    for shown in (None, foreign):
        context = served.trusted(shown)
        context.minimum_version = context.maximum_version = version
        async with client(balancer, context) as asked:
            with pytest.raises((httpx.TransportError, ssl.SSLError)):
                await asked.get("/v1/models")
    await soon(lambda: not balancer.parts.server._connections)


async def test_who_has_shown_one_needs_no_key_from_another_machine_while_there_is_none(
    mutual: tuple[Balanced, Issued], secure: Balanced
) -> None:
    asked, elsewhere = head_of.parse(GET), "192.0.2.1"
    assert mutual[0].parts.server._tenant(asked, elsewhere) is ANYBODY
    with pytest.raises(ProxyError, match="an API key is needed"):
        secure.parts.server._tenant(asked, elsewhere)


# what is measured on a socket


@pytest.fixture
async def slow(secure: Balanced, start_worker: StartWorker) -> Slow:
    answer = Slow()
    secure.push((await start_worker(answer=answer)).spec())
    return answer


async def test_a_client_that_leaves_frees_its_worker(secure: Balanced, served: Issued, slow: Slow) -> None:
    for request in (post(), post(STREAM)):
        for leave in ("close", "abort"):
            slow.begun.clear()
            slow.gone.clear()
            async with connected(secure, served.trusted()) as (_, writer):
                writer.write(request)
                await asyncio.wait_for(slow.begun.wait(), DEADLINE_S)
                getattr(writer.transport, leave)()
                await asyncio.wait_for(slow.gone.wait(), DEADLINE_S)


async def test_a_client_that_ends_its_half_of_the_socket_gets_its_answer(
    secure: Balanced, served: Issued, slow: Slow
) -> None:
    async with connected(secure, served.trusted()) as (reader, writer):
        writer.write(post())
        await asyncio.wait_for(slow.begun.wait(), DEADLINE_S)
        with socket.fromfd(writer.get_extra_info("socket").fileno(), socket.AF_INET, socket.SOCK_STREAM) as half:
            half.shutdown(socket.SHUT_WR)
        await asyncio.sleep(0.2)
        assert not slow.gone.is_set()
        slow.end.set()
        answer = await asyncio.wait_for(reader.read(), DEADLINE_S)
    assert answer.endswith(b'{"got": "it"}')


async def test_a_slow_reader_is_cut_off_and_its_worker_paused(
    start_balancer: StartBalancer, served: Issued, start_worker: StartWorker
) -> None:
    written = 0

    async def endless(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        while True:
            await response.write(bytes(65536))
            written += 65536

    balancer = await start_balancer(tls=served.files, send_timeout=0.4, stream_buffer=64 * 1024)
    balancer.push((await start_worker(answer=endless)).spec())
    async with connected(balancer, served.trusted()) as (_, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(post())
        connection = await soon(lambda: next((c for c in balancer.parts.server._connections if c.full), None))
        waiting = connection.peer._unsent()
        assert waiting > 64 * 1024, "what the kernel holds counts"
        await soon(lambda: not balancer.parts.server._connections)
        assert written < 64 * 1024 * 1024
    assert balancer.in_flight == 0


async def test_large_bodies_go_both_ways(secure: Balanced, served: Issued, start_worker: StartWorker) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    secure.push((await start_worker(answer=echo)).spec())
    prompt = "x" * 6_000_000
    async with client(secure, served.trusted()) as asked:
        answer = await asked.post("/v1/completions", json={"model": "base", "prompt": prompt})
    assert answer.json()["prompt"] == prompt


async def test_records_of_one_byte_keep_nobody_waiting(
    secure: Balanced, served: Issued, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handshake in pieces, and more records in one reading of the socket than one turn opens."""
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    secure.push((await start_worker(answer=echo)).spec())
    monkeypatch.setattr(tls, "_MOST_RECORDS", 100)
    most, read = 0, tls.TlsConnection._read

    def counted(self: tls.TlsConnection, opened: ssl.SSLObject) -> None:
        nonlocal most
        before = self._incoming.pending
        read(self, opened)
        most = max(most, before - self._incoming.pending)

    monkeypatch.setattr(tls.TlsConnection, "_read", counted)
    body = b'{"model": "base", "prompt": "%b"}' % (b"x" * 9000)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    opened = served.trusted().wrap_bio(incoming, outgoing, server_hostname="localhost")
    async with secure.connection() as (reader, writer):
        while True:
            try:
                opened.do_handshake()
                break
            except ssl.SSLWantReadError:
                for byte in outgoing.read():
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0)
                incoming.write(await asyncio.wait_for(reader.read(65536), DEADLINE_S))
        for byte in post(body):
            opened.write(bytes([byte]))
        writer.write(outgoing.read())
        answer = b""
        while not answer.endswith(b'x"}'):
            try:
                answer += opened.read(65536)
            except ssl.SSLWantReadError:
                incoming.write(await asyncio.wait_for(reader.read(65536), DEADLINE_S))
    assert answer.endswith(body)
    assert most <= 100 * 40


async def test_the_owner_is_known_by_his_connection(secure: Balanced, served: Issued) -> None:
    async with client(secure, served.trusted()) as asked:
        assert (await asked.get("/v1/cluster/status")).status_code == 200
        here = f"https://127.0.0.1:{secure.port}"  # where the page comes from
        assert (await asked.get("/v1/cluster/status", headers={"Origin": here})).status_code == 200
        assert (await asked.get("/v1/cluster/status", headers={"Origin": "https://other"})).status_code == 403


# replaced while it serves


async def test_another_certificate_is_taken_and_nothing_is_dropped(
    secure: Balanced, served: Issued, slow: Slow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = served.trusted(), issue(tmp_path / "new", "renewed")
    async with connected(secure, old) as (reader, writer):
        writer.write(post(STREAM))
        await head(reader)
        served.replace(new)
        await soon(lambda: new.cert.read_text().strip() in (tmp_path / "tls.json").read_text().replace("\\n", "\n"))
        async with connected(secure, new.trusted()) as (other, asks):
            asks.write(GET)
            assert b"200 OK" in await head(other)
        slow.end.set()
        assert b"[DONE]" in await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), DEADLINE_S)
    expiry = "clusterctl_tls_certificate_expiry_timestamp_seconds"
    assert 29 < (secure.metric(expiry) or 0) / 86400 - time.time() / 86400 < 31


async def test_a_broken_pair_keeps_the_old_one_also_for_the_next_balancer(
    secure: Balanced, served: Issued, tmp_path: Path, start_balancer: StartBalancer, caplog: pytest.LogCaptureFixture
) -> None:
    context = served.trusted()
    served.cert.write_bytes(issue(tmp_path / "new", "renewed").cert.read_bytes())
    await soon(lambda: "not the key of" in caplog.text)
    assert caplog.text.count("is served on") == 1
    with caplog.at_level(logging.ERROR):
        next_one = await start_balancer(tls=served.files)
    for balancer in (secure, next_one):
        async with client(balancer, context) as asked:
            assert (await asked.get("/v1/models")).status_code == 200


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "_LOOK_S", 0.05)
