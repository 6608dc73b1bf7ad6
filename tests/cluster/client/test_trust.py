"""Which certificate is trusted, where nothing is said and where something is."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from certificates import Issued, issue
from cluster.client import AsyncClusterClient, ClusterClient, ClusterError
from config import tls
from config.sources import commands
from lbfakes import Balanced, running_balancer


@pytest.fixture
def served(tmp_path: Path) -> Issued:
    return issue(tmp_path / "certificates", "elsewhere.example")


@pytest.fixture
async def balancer(tmp_path: Path, served: Issued, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Balanced]:
    monkeypatch.setenv("CLUSTERCTL_STATE_DIR", str(tmp_path / "state"))
    (tmp_path / "state").mkdir()
    async with running_balancer(tmp_path / "state", tls=served.files) as found:
        yield found


async def _asks(balancer: Balanced, verify: Path | ssl.SSLContext | None = None) -> None:
    """Both clients. Raises ClusterError."""
    url = f"https://127.0.0.1:{balancer.port}"
    async with AsyncClusterClient(url, verify=verify) as other:
        await other.models()

    def blocking() -> None:
        with ClusterClient(url, verify=verify) as cluster:
            cluster.models()

    await asyncio.to_thread(blocking)


async def test_a_cluster_of_this_machine_is_known_by_its_state_directory(
    balancer: Balanced, served: Issued, tmp_path: Path
) -> None:
    """Whatever its names and dates: it is known by every bit of it."""
    await _asks(balancer)
    other = issue(tmp_path / "other").files
    tls.keep(balancer.state_dir / "tls.json", other, tls.load(other))
    with pytest.raises(ClusterError, match="certificate verify failed"):
        await _asks(balancer)
    await _asks(balancer, served.trusted())
    await _asks(balancer, served.cert)


async def test_a_client_that_goes_on_trusts_the_next_certificate(
    balancer: Balanced, served: Issued, tmp_path: Path
) -> None:
    async with AsyncClusterClient(f"https://127.0.0.1:{balancer.port}") as client:
        await client.models()
        certificate = balancer.parts.server._certificate
        assert certificate is not None
        certificate._served = tls.load(issue(tmp_path / "new", "renewed").files)
        certificate._keep()
        await client._http._transport.aclose()  # its connections
        await client.models()


async def test_elsewhere_it_is_who_the_system_trusts(balancer: Balanced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.client.trust.is_of_this_machine", lambda host: False)
    with pytest.raises(ClusterError, match=r"certificate verify failed.*--ca"):
        await _asks(balancer)


async def test_a_file_that_is_none_is_named(balancer: Balanced, tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=f"certificates in {tmp_path}/none.pem: No such file"):
        await _asks(balancer, tmp_path / "none.pem")


def test_commands_ask_over_tls_where_the_state_directory_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("CLUSTERCTL_URL", "CLUSTERCTL_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CLUSTERCTL_STATE_DIR", str(tmp_path))
    assert commands.cluster_url() == "http://127.0.0.1:8000"
    (tmp_path / "tls.json").touch()
    assert commands.cluster_url() == "https://127.0.0.1:8000"
    monkeypatch.setenv("CLUSTERCTL_PORT", "what")
    assert commands.cluster_url() == "http://127.0.0.1:what"
    assert commands.cluster_port("https://a.example") == 443
    assert commands.cluster_port("http://a.example") == 80
