"""Whom a job may connect to."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap

import pytest

from worker.jobs.job import JobFailed
from worker.sources.egress import EgressGuard, EgressPolicy, EgressRefused, is_public


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True), ("2606:4700::1", True), ("127.0.0.1", False), ("127.8.8.8", False), ("0.0.0.0", False),
        ("10.1.2.3", False), ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False),
        ("100.64.0.1", False), ("224.0.0.1", False), ("255.255.255.255", False), ("::1", False), ("::", False),
        ("fe80::1", False), ("fe80::1%eth0", False), ("fc00::1", False), ("ff02::1", False),
        ("::ffff:127.0.0.1", False), ("::ffff:8.8.8.8", True), ("64:ff9b::7f00:1", False), ("64:ff9b::808:808", True),
        ("2002:7f00:1::", False), ("2001:0:7f00:1::", False),
    ],
)  # fmt: skip
def test_which_addresses_are_of_the_internet(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("hosts", "host", "allowed"),
    [
        ((), "anywhere.example", True), (("example.com",), "example.com", True),
        (("example.com",), "EXAMPLE.com.", True), (("example.com",), "a.example.com", False),
        (("*.example.com",), "a.example.com", True), (("*.example.com",), "example.com", False),
        (("*.example.com",), "evilexample.com", False), (("example.com",), "example.com.evil.org", False),
        (("example.com",), "", False),
    ],
)
def test_which_hosts_may_be_asked(hosts: tuple[str, ...], host: str, allowed: bool) -> None:
    try:
        EgressPolicy(hosts).check_host(host)
    except JobFailed as error:
        assert not allowed and error.status == 403
    else:
        assert allowed


def test_servers_that_the_operator_names_may_lie_anywhere() -> None:
    guard = EgressGuard(EgressPolicy(), {"HF_ENDPOINT": "http://localhost:8080", "AWS_ENDPOINT_URL": "https://10.0.0.7"})
    guard.check(("127.0.0.1", 8080))
    guard.check(("10.0.0.7", 443))
    guard.check(("8.8.8.8", 80))
    guard.check("/run/some.sock")
    for address in (("127.0.0.1", 8081), ("10.0.0.7", 80), ("10.0.0.8", 443), ("localhost", 22), ("", 1)):
        with pytest.raises(EgressRefused, match="source_private: true allows those"):
            guard.check(address)
    EgressGuard(EgressPolicy(private=True), {}).check(("127.0.0.1", 8081))


@pytest.mark.processes
def test_no_library_gets_past_it_whatever_a_name_means_by_then() -> None:
    """In a process of its own: what is installed there cannot be taken out again."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(0.2)
    port = server.getsockname()[1]
    text = textwrap.dedent(f"""
        import socket
        from worker.sources.egress import EgressPolicy, environment_guard
        guard = environment_guard(EgressPolicy())
        guard.install()
        real = socket.getaddrinfo
        def rebound(host, port, *rest, **more):
            return real("127.0.0.1", port, *rest, **more)
        socket.getaddrinfo = rebound  # the name has another address by the time that it is connected to
        import boto3, botocore.config, httpx, requests
        def s3():
            quick = botocore.config.Config(retries={{"max_attempts": 0}})
            boto3.client("s3", region_name="x", aws_access_key_id="a", aws_secret_access_key="b", config=quick,
                         endpoint_url="http://rebound.example:{port}").list_buckets()
        calls = [lambda: requests.get("http://rebound.example:{port}/"), lambda: httpx.get("http://127.0.0.1:{port}/"),
                 s3, lambda: socket.create_connection(("127.0.0.1", {port}))]
        from huggingface_hub import HfApi
        calls.append(lambda: HfApi(endpoint="http://rebound.example:{port}").model_info("a/b"))
        for call in calls:
            guard.refused = None
            try:
                call()
            except Exception:
                pass
            print("127.0.0.1" in (guard.refused or ""))
    """)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["True"] * 5, done.stderr
    with pytest.raises(TimeoutError):
        server.accept()
    server.close()


