"""A balancer's side of connections to workers."""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from lb.upstream.connections import Upstream
from talkers import OK, Clock, StartTalker, Talker, talking


@pytest.fixture
def start_talker(stack: AsyncExitStack) -> StartTalker:
    async def start(say: Callable[[int], bytes | None] = lambda number: OK, greeting: bytes = b"") -> Talker:
        return await stack.enter_async_context(talking(Talker(say, greeting=greeting)))

    return start


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def upstream(clock: Clock) -> Iterator[Upstream]:
    made = Upstream(clock=clock)
    yield made
    made.close()


@pytest.fixture
def trusting(upstream: Upstream, tmp_path: Path) -> ssl.SSLContext:
    """A server's context, for a certificate of 127.0.0.1 that ``upstream`` trusts."""
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            *files,
        ],
        check=True,
        capture_output=True,
    )
    upstream._tls = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return server
