"""gRPC over TLS: the certificate of the one port, also when it is replaced, and certificates of clients."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from certificates import Issued, authority, issue
from config.topology import TlsFiles
from fakes import soon
from lb.downstream import certificate
from lbfakes import DEADLINE_S, Balanced, listening, running_balancer


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificate, "_LOOK_S", 0.05)


@asynccontextmanager
async def _secure(folder: Path, files: TlsFiles, **config: object) -> AsyncIterator[tuple[Balanced, str]]:
    listener = listening()
    async with running_balancer(folder, listener, tls=files, **config) as balancer:
        yield balancer, f"localhost:{listener.getsockname()[1]}"
    listener.close()


async def _asks(target: str, trusted: Issued, shown: Issued | None = None, name: str = "localhost") -> None:
    """Raises AioRpcError."""
    mine = (None, None) if shown is None else (shown.key.read_bytes(), shown.cert.read_bytes())
    credentials = grpc.ssl_channel_credentials(trusted.cert.read_bytes(), *mine)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", name)]
    async with grpc.aio.secure_channel(target, credentials, options) as channel:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE_S)


async def test_the_certificate_is_that_of_the_port_and_replaced_with_it(tmp_path: Path) -> None:
    served, new = issue(tmp_path / "a"), issue(tmp_path / "b", "renewed")
    before = Issued(served.cert.with_suffix(".old"), served.key)
    before.cert.write_bytes(served.cert.read_bytes())
    async with _secure(tmp_path, served.files) as (balancer, target):
        await _asks(target, served)
        kept = grpc.ssl_channel_credentials(before.cert.read_bytes())
        async with grpc.aio.secure_channel(target, kept, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            await watch.read()
            served.replace(new)
            kept_now = tmp_path / "tls.json"
            await soon(lambda: new.cert.read_text().strip() in kept_now.read_text().replace("\\n", "\n"))
            await _asks(target, new, name="renewed")
            with pytest.raises(grpc.aio.AioRpcError):
                await _asks(target, before)
            assert not watch.done(), "nothing is dropped"
        assert balancer.parts.server.admission.crowd.most > 0


async def test_a_client_shows_a_certificate_of_the_authority(tmp_path: Path) -> None:
    served, trusted = issue(tmp_path / "a"), authority(tmp_path / "ca")
    ours, foreign = issue(tmp_path / "clients", "app", trusted), issue(tmp_path / "clients", "other")
    async with _secure(tmp_path, replace(served.files, client_ca=str(trusted.cert))) as (_, target):
        await _asks(target, served, ours)
        for shown in (None, foreign):
            with pytest.raises(grpc.aio.AioRpcError):
                await _asks(target, served, shown)


async def test_who_speaks_no_tls_and_who_says_nothing_are_not_kept(tmp_path: Path) -> None:
    served = issue(tmp_path / "a")
    async with _secure(tmp_path, served.files, head_timeout=0.3) as (balancer, target):
        host, _, port = target.rpartition(":")
        plain, silent = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        plain[1].write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert b"speaks TLS" in await asyncio.wait_for(plain[0].read(), DEADLINE_S)
        assert await asyncio.wait_for(silent[0].read(), DEADLINE_S) is not None
        for _, writer in (plain, silent):
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        await soon(lambda: balancer.parts.server.connections == 0)
        assert balancer.parts.server.admission.crowd.size == 0
