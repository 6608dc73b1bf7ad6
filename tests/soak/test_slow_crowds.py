"""A crowd of clients that hold what they have and do not go on: each is cut, others do not feel it, and the operator is
answered meanwhile. What is found is printed (``pytest -s``)."""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from harness import Cluster, free_port, poll

pytestmark = pytest.mark.processes

MIB = 1024 * 1024

#: Seconds after which a client that does not go on is cut, requests in one measurement, and measurements.
CUT_AFTER, REQUESTS, PAIRS = 40, 400, 5


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder: Path = tmp_path_factory.mktemp("crowd")
    cluster, config = Cluster(folder, free_port()), folder / "config.yaml"
    config.write_text(f"body_timeout: {CUT_AFTER}\nsend_timeout: {CUT_AFTER}\nmax_connections: 300\n")
    result = cluster.up(
        "--engine", "sim", "--instances", "2", "--config", str(config), "--", "--ttft-ms", "5", "--itl-ms", "1"
    )
    assert result.returncode == 0, result.stderr
    cluster.wait_ready(2)
    yield cluster
    cluster.close()


def post(length: int, path: bytes = b"/v1/completions") -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (path, length)


def connected(port: int, data: bytes, received: int = 0) -> socket.socket:
    sock = socket.socket()
    if received:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, received)
        # The other kernel would hold ten segments of 64 KiB, twice: with small ones the balancer has to hold the rest.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000)
    sock.settimeout(30)
    sock.connect(("127.0.0.1", port))
    with contextlib.suppress(OSError):  # it need not take all of it
        sock.sendall(data)
    return sock


def stalled_uploads(port: int) -> list[socket.socket]:
    """Long ones that name no model at their beginning, so that all of each is kept."""
    return [connected(port, post(60 * MIB) + b'{"a": "' + b"x" * (20 * MIB)) for _ in range(12)]


def slow_bodies(port: int) -> list[socket.socket]:
    return [connected(port, post(1000) + b"{") for _ in range(300)]


def silent_readers(port: int) -> list[socket.socket]:
    """Of answers of 120 KB that cost a worker little."""
    body = json.dumps({"model": "demo", "prompt": "hello you " * 5000, "return_token_strs": True}).encode()
    return [connected(port, (post(len(body), b"/tokenize") + body) * 4, received=4096) for _ in range(300)]


def seconds(client: httpx.Client) -> list[float]:
    """Of requests one after the other."""
    found, body = [], {"model": "demo", "prompt": "hello", "max_tokens": 4, "ignore_eos": True}
    for _ in range(REQUESTS):
        began = time.monotonic()
        client.post("/v1/completions", json=body).raise_for_status()
        found.append(time.monotonic() - began)
    return found


def p99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[-1]


def is_over(sock: socket.socket) -> bool:
    """The other side has ended it; what it answered is read."""
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        try:
            while sock.recv(65536):
                pass
        except ConnectionError:
            pass
        return True
    return False


def settle(client: httpx.Client) -> None:
    """Until the crowd gets nothing more: what its requests cost a worker is not what is measured."""
    seen = [-1]

    def rests() -> bool:
        time.sleep(0.5)
        instances = client.get("/v1/cluster/status").json()["instances"].values()
        seen.append(sum(i["requests_total"] + i["in_flight"] for i in instances))
        return len(set(seen[-4:])) == 1

    poll(rests, CUT_AFTER - 10)


def slow_readers(client: httpx.Client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("clusterctl_slow_readers_total"))


@pytest.mark.soak
@pytest.mark.parametrize("crowd", [stalled_uploads, slow_bodies, silent_readers])
def test_a_crowd_that_does_not_go_on_is_cut_and_nobody_feels_it(
    cluster: Cluster, crowd: Callable[[int], list[socket.socket]]
) -> None:
    """Without it and beside it in turn, as the machine is not equally fast all the time: the median of the ratios."""
    ratios = []
    with httpx.Client(base_url=cluster.url, timeout=30) as client:
        seconds(client)
        for _ in range(PAIRS):
            calm, cut_before = p99(seconds(client)), slow_readers(client)
            sockets, began = crowd(cluster.port), time.monotonic()
            try:
                settle(client)
                beside = p99(seconds(client))
                with httpx.Client(base_url=cluster.url, timeout=10) as operator:
                    for path in ("/health", "/v1/cluster/status"):
                        assert operator.get(path).status_code == 200
                assert time.monotonic() - began < CUT_AFTER, "the machine is too slow to say anything"
                ratios.append(beside / calm)
                print(f"{crowd.__name__}: p99 {1000 * beside:.1f} ms, {ratios[-1]:.2f} of that without it")
                if crowd is silent_readers:
                    poll(lambda: slow_readers(client) > cut_before, timeout=4 * CUT_AFTER)  # noqa: B023
                else:
                    poll(lambda: all(map(is_over, sockets)), timeout=4 * CUT_AFTER)  # noqa: B023
            finally:
                for sock in sockets:
                    sock.close()
    assert statistics.median(ratios) <= 1.1
