"""A whole cluster that speaks TLS, as programs of other people see it, and its own command line."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from certificates import Issued, authority, issue
from config import tls
from harness import Cluster, clusterctl, kill, poll

SLOW = ("--engine", "sim", "--instances", "1", "--lb-processes", "2")
ENGINE = ("--", "--ttft-ms", "1", "--itl-ms", "40", "--max-num-seqs", "256")


@pytest.fixture
def served(tmp_path: Path) -> Issued:
    return issue(tmp_path / "certificates")


def _up(cluster: Cluster, served: Issued, *flags: str) -> Cluster:
    cluster.tls = served.trusted()
    given = ("--tls-cert", str(served.cert), "--tls-key", str(served.key))
    result = cluster.up(*SLOW, *given, *flags, *ENGINE)
    assert result.returncode == 0, result.stderr
    assert f"https://127.0.0.1:{cluster.port}: 1 ready" in result.stderr + result.stdout
    return cluster


def _run(*command: str, input: str = "") -> str:
    done = subprocess.run(command, input=input, capture_output=True, text=True, timeout=20, check=False)
    return done.stdout


def test_other_peoples_programs_and_our_own(cluster: Cluster, served: Issued) -> None:
    _up(cluster, served)
    at, ca = f"127.0.0.1:{cluster.port}", str(served.cert)
    # openssl
    said = _run("openssl", "s_client", "-connect", at, "-CAfile", ca, "-alpn", "h2,http/1.1", "-verify_return_error")
    assert "ALPN protocol: http/1.1" in said
    assert "Verify return code: 0 (ok)" in said
    request = f"GET /v1/models HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n"
    assert '"id": "demo"' in _run("openssl", "s_client", "-quiet", "-connect", at, "-CAfile", ca, input=request)
    for old in ("-tls1", "-tls1_1"):
        refused = _run("openssl", "s_client", "-connect", at, old, "-cipher", "ALL:@SECLEVEL=0")
        assert "Cipher is (NONE)" in refused
    # curl
    assert json.loads(_run("curl", "-s", "--cacert", ca, f"https://{at}/v1/models"))["data"][0]["id"] == "demo"
    assert _run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"https://{at}/health") == "000"
    assert _run("curl", "-s", "-w", "%{http_code}", f"http://{at}/health") == (
        "this port speaks TLS: its URL begins with https://\n400"
    )
    # OpenAI's client
    assert cluster.tls is not None
    with httpx.Client(verify=cluster.tls) as http:
        asked = openai.OpenAI(base_url=f"{cluster.url}/v1", api_key="none", http_client=http)
        chunks = asked.completions.create(model="demo", prompt="once", max_tokens=5, stream=True)
        assert sum(bool(chunk.choices) for chunk in chunks) >= 5
    # the command line of this machine knows the cluster by its state directory, and any other by --ca
    for words in (
        ("status",), ("lora", "list"), ("top", "--once", "--interval", "0.1"), ("chat", "hello"), ("events",),
        ("bench", "--requests", "2", "--max-tokens", "2", "--json"), ("restart", "lb"), ("logs", "instance_0"),
    ):  # fmt: skip
        result = cluster.run(*words)
        assert result.returncode == 0, (words, result.stderr)
    assert f"{cluster.url}/ui/#code=" in cluster.run("ui").stdout
    here = {"CLUSTERCTL_PORT": str(cluster.port), "CLUSTERCTL_STATE_DIR": str(cluster.state_dir)}
    assert clusterctl("status", **here).returncode == 0, "without a URL too"
    elsewhere = {"CLUSTERCTL_URL": cluster.url}
    stranger = clusterctl("status", **elsewhere)
    assert stranger.returncode == 1
    assert "certificate verify failed" in stranger.stderr and "--ca" in stranger.stderr
    assert clusterctl("status", "--ca", ca, **elsewhere).returncode == 0
    assert clusterctl("status", CLUSTERCTL_CA=ca, **elsewhere).returncode == 0
    plain = clusterctl("status", "--url", f"http://{at}")
    assert "this port speaks TLS" in plain.stderr
    assert cluster.status()["load_balancer"]["restarts"] == 0
    kept = cluster.state_dir / "tls.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert cluster.run("down").returncode == 0
    assert not kept.exists()


def test_a_certificate_is_replaced_under_a_hundred_streams(cluster: Cluster, served: Issued, tmp_path: Path) -> None:
    _up(cluster, served)
    renewed = issue(tmp_path / "renewed", "renewed")
    kept = cluster.state_dir / "tls.json"

    async def stream(http: httpx.AsyncClient, number: int) -> int:
        body = {"model": "demo", "prompt": str(number), "max_tokens": 150, "stream": True, "ignore_eos": True}
        tokens, done = 0, False
        async with http.stream("POST", "/v1/completions", json=body) as answer:
            async for line in answer.aiter_lines():
                tokens += line.startswith("data: {")
                done = done or line == "data: [DONE]"
        assert done
        return tokens

    async def replaced() -> None:
        await asyncio.sleep(1.0)
        served.replace(renewed)
        await asyncio.to_thread(poll, lambda: tls.kept_leaf(kept) == renewed.cert.read_text().strip(), 10)
        await asyncio.to_thread(poll, lambda: _both_serve(cluster, renewed), 10)

    async def go() -> list[int]:
        limits = httpx.Limits(max_connections=200)
        options: dict[str, Any] = {"base_url": cluster.url, "timeout": 60, "limits": limits}
        async with httpx.AsyncClient(verify=cluster.tls or True, **options) as http:
            streams = [asyncio.ensure_future(stream(http, n)) for n in range(100)]
            await replaced()
            assert not any(each.done() for each in streams), "all of them were under way meanwhile"
            return await asyncio.gather(*streams)

    counts = asyncio.run(go())
    assert len(counts) == 100 and min(counts) >= 150
    cluster.tls = renewed.trusted()
    (replacement,) = [e for e in _events(cluster) if e["kind"] == "certificate.replaced"]
    assert replacement["data"]["names"][0] == "renewed"
    assert cluster.run("status").returncode == 0, "the command line knows the new one"
    # a broken pair is told of, and changes nothing, not even for balancers that are started now
    served.key.write_bytes(issue(tmp_path / "other", "other").key.read_bytes())
    poll(lambda: [e for e in _events(cluster) if e["kind"] == "certificate.refused"], 10)
    for process in cluster.status()["load_balancer"]["processes"]:
        os.kill(process["pid"], 9)
    poll(lambda: cluster.status()["load_balancer"]["restarts"] == 2, 20, "others take their places")
    assert cluster.complete().status_code == 200
    # nor does it keep the next supervisor from taking over
    kill(cluster.status()["supervisor"]["pid"])
    flags = ("--tls-cert", str(served.cert), "--tls-key", str(served.key))
    assert cluster.up(*SLOW, *flags, *ENGINE).returncode == 0
    assert cluster.complete().status_code == 200
    found = clusterctl("doctor", "--engine", "sim", "--tls-cert", str(served.cert), "--tls-key", str(served.key))
    assert "not the key of" in found.stdout.replace("\n", " ")


def _both_serve(cluster: Cluster, renewed: Issued) -> bool:
    """Connections go to both processes: a few in a row say what both serve."""
    try:
        for _ in range(12):
            httpx.get(f"{cluster.url}/v1/models", verify=renewed.trusted(), timeout=10)
    except httpx.ConnectError:
        return False
    return True


def _events(cluster: Cluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cluster.ask("GET", "/v1/cluster/events").json()["events"]
    return found


def test_clients_have_to_show_a_certificate(cluster: Cluster, served: Issued, tmp_path: Path) -> None:
    trusted = authority(tmp_path / "ca")
    ours = issue(tmp_path / "clients", "operator", trusted)
    both = tmp_path / "operator.pem"
    both.write_bytes(ours.cert.read_bytes() + ours.key.read_bytes())
    _up(cluster, served, "--tls-client-ca", str(trusted.cert))
    url = f"https://127.0.0.1:{cluster.port}/v1/models"
    with pytest.raises(httpx.TransportError):
        httpx.get(url, verify=served.trusted(), timeout=10)
    cluster.tls = served.trusted(ours)
    assert cluster.complete().status_code == 200
    curl = ("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--cacert", str(served.cert), url)
    assert _run(*curl) == "000"
    assert _run(*curl, "--cert", str(ours.cert), "--key", str(ours.key)) == "200"
    here = {"CLUSTERCTL_URL": cluster.url, "CLUSTERCTL_STATE_DIR": str(cluster.state_dir)}
    assert clusterctl("status", **here).returncode == 1
    shown = clusterctl("status", CLUSTERCTL_CLIENT_CERT=str(both), **here)
    assert shown.returncode == 0, shown.stderr


def test_what_cannot_be_served_is_said_before_anything_starts(cluster: Cluster, served: Issued, tmp_path: Path) -> None:
    began = time.monotonic()
    other = issue(tmp_path / "other", "other")
    result = cluster.up(*SLOW, "--tls-cert", str(served.cert), "--tls-key", str(other.key))
    assert result.returncode == 1
    assert result.stderr.strip() == f"error: --tls-key {other.key}: not the key of {served.cert}"
    assert not cluster.state_dir.exists() or not any(cluster.state_dir.glob("run/*"))
    assert time.monotonic() - began < 20
