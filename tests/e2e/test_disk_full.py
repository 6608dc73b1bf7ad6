"""The state directory's disk runs full under a running cluster: requests go on, changes are refused with a word, what
dies comes back, and nothing of it is lost when there is room again. A real small file system, simulated engine."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness import Cluster, free_port, kill, poll

_QUICKLY = {"CLUSTERCTL_RESTART_DELAY": "0.1", "HEALTH_CHECK_INTERVAL": "0.3"}


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Cluster]:
    """A cluster that is not started yet, on a disk of 24 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    cluster = Cluster(disk, free_port())
    try:
        yield cluster
        (disk / "ballast").unlink(missing_ok=True)
        cluster.close()
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _fill(cluster: Cluster) -> None:
    """Not one byte is left."""
    with (cluster.root / "ballast").open("ab", buffering=0) as ballast:
        with contextlib.suppress(OSError):
            while True:
                ballast.write(bytes(65536))
        with contextlib.suppress(OSError):
            while True:
                ballast.write(b"x")
    found = os.statvfs(cluster.root)
    assert found.f_bavail == 0


def _free(cluster: Cluster) -> None:
    (cluster.root / "ballast").unlink()


def _back(cluster: Cluster, name: str, pid: int) -> dict[str, Any] | None:
    seen = cluster.instance(name)
    return seen if seen["state"] == "ready" and seen["pid"] != pid else None


def _full(answer: httpx.Response) -> bool:
    if answer.status_code != 507:
        return False
    error = answer.json()["error"]
    assert error["code"] == 507 and error["type"] == "InsufficientStorageError"
    assert "nothing was changed" in error["message"] and "full" in error["message"]
    return True


def _events(cluster: Cluster) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = httpx.get(f"{cluster.url}/v1/cluster/events?limit=1000").json()["events"]
    return found


def _whole(cluster: Cluster) -> None:
    """Every kind of change works."""
    poll(lambda: cluster.post("/v1/cluster/strategy", {"strategy": "random"}).status_code == 200, 15, "not refused")
    assert cluster.run("scale", "3").returncode == 0
    cluster.wait_ready(3)


def test_a_full_disk_stops_changes_and_nothing_else(small: Cluster, demo_adapters: dict[str, str]) -> None:
    up = small.up("--engine", "sim", "--instances", "2", "--max-instances", "4", "--", "--ttft-ms", "1", **_QUICKLY)
    assert up.returncode == 0, up.stderr
    before = small.wait_ready(2)
    adapter = {"lora_name": "late", "lora_path": next(iter(demo_adapters.values()))}
    _fill(small)
    for _ in range(20):
        assert small.complete().status_code == 200
    assert _full(small.post("/v1/cluster/scale", {"instances": 3}))
    assert _full(small.post("/v1/cluster/strategy", {"strategy": "random"}))
    assert _full(small.post("/v1/load_lora_adapter", adapter))
    refused = small.run("scale", "3")
    assert refused.returncode == 1 and "nothing was changed" in refused.stderr
    status = small.status()
    assert (status["total_instances"], status["load_balancer_strategy"]) == (2, before["load_balancer_strategy"])
    assert "late" not in [card["id"] for card in httpx.get(f"{small.url}/v1/models").json()["data"]]
    assert not list((small.state_dir / "adapters").glob(".incoming*"))

    pids = {name: i["pid"] for name, i in before["instances"].items()}
    for name in ("instance_0", "instance_1", "instance_0"):
        pid = small.instance(name)["pid"]
        kill(pid)
        poll(lambda n=name, p=pid: _back(small, n, p), 20, f"{name} is restarted")  # type: ignore[misc]
    assert small.instance("instance_1")["pid"] != pids["instance_1"]
    assert small.complete().status_code == 200
    assert small.status()["supervisor"]["pid"] == before["supervisor"]["pid"]

    _free(small)
    _whole(small)
    assert small.post("/v1/load_lora_adapter", adapter).status_code == 200
    poll(lambda: "state.saved" in [event["kind"] for event in _events(small)], 30, "what waited is saved")
    told = [event for event in _events(small) if event["kind"].startswith("state.")]
    assert [event["kind"] for event in told] == ["state.unsaved", "state.saved"], "once, and once that it is over"
    assert "is full" in told[0]["text"] and "can be saved again" in small.log("supervisor")
    assert len([event for event in _events(small) if event["kind"] == "worker.exited"]) == 3


@pytest.mark.alone
def test_a_supervisor_that_comes_on_a_full_disk_finds_what_could_not_be_saved(small: Cluster) -> None:
    assert small.up("--engine", "sim", "--instances", "2", **_QUICKLY).returncode == 0
    before = small.wait_ready(2)
    _fill(small)
    lost = before["instances"]["instance_0"]["pid"]
    kill(lost)
    poll(lambda: _back(small, "instance_0", lost), 20)
    kill(before["load_balancer"]["pid"])
    poll(lambda: _served(small), 10, "another balancer")
    restarted = small.wait_ready(2)
    kill(restarted["supervisor"]["pid"])
    poll(lambda: small.status()["supervisor"]["pid"] is None, 5)
    assert small.complete().status_code == 200

    up = small.up("--engine", "sim", "--instances", "2")
    assert up.returncode == 0, up.stderr
    after = small.wait_ready(2)
    for name in ("instance_0", "instance_1"):
        assert after["instances"][name]["pid"] == restarted["instances"][name]["pid"], "adopted, not restarted"
        assert after["instances"][name]["incarnation"] == restarted["instances"][name]["incarnation"]
    assert after["load_balancer"]["pid"] == restarted["load_balancer"]["pid"]
    assert after["supervisor"]["epoch"] > restarted["supervisor"]["epoch"]
    again = small.instance("instance_1")["pid"]
    kill(again)
    poll(lambda: _back(small, "instance_1", again), 20, "still looked after")
    _free(small)
    _whole(small)


def _served(cluster: Cluster) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return cluster.complete().status_code == 200
    return False


def test_no_cluster_is_started_on_a_full_disk(small: Cluster) -> None:
    _fill(small)
    up = small.up("--engine", "sim", "--instances", "1")
    assert up.returncode == 1
    assert len(up.stderr.strip().splitlines()) == 1 and "No space left" in up.stderr, up.stderr
