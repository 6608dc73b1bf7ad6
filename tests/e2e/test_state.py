"""The durable state over crashes and machines: real processes, simulated engine."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import CLI, Cluster, clusterctl, environment, kill, poll

_SIM = ("--engine", "sim", "--instances", "2", "--max-instances", "4")


def _state(cluster: Cluster, *args: str) -> subprocess.CompletedProcess[str]:
    return clusterctl("state", *args, "--state-dir", str(cluster.state_dir))


def test_a_supervisor_killed_at_any_moment_leaves_a_state_that_starts(cluster: Cluster) -> None:
    """Also while it makes the state, starts workers, adopts them, scales."""
    luck = random.Random(5)
    command = [CLI, "up", "--port", str(cluster.port), "--state-dir", str(cluster.state_dir), *_SIM]
    for round_number in range(8):
        supervisor = subprocess.Popen(
            command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            cluster.seen.add(supervisor.pid)
            poll((cluster.state_dir / "lock").exists, 20)
            end = time.monotonic() + luck.uniform(0.0, 2.0)
            if round_number % 2:
                poll(lambda e=end: time.monotonic() > e, 5)  # type: ignore[misc]
                clusterctl("scale", str(2 + round_number % 3), "--no-wait", CLUSTERCTL_URL=cluster.url)
            poll(lambda e=end: time.monotonic() > e, 5)  # type: ignore[misc]
        finally:
            supervisor.kill()
            supervisor.wait()
    up = cluster.up(*_SIM)
    assert up.returncode == 0, up.stderr
    status = cluster.wait_ready(cluster.status()["total_instances"])
    pids = [i["pid"] for i in status["instances"].values()]
    assert cluster.complete().status_code == 200
    kill(status["supervisor"]["pid"])
    assert cluster.up(*_SIM).returncode == 0
    assert [i["pid"] for i in cluster.status()["instances"].values()] == pids
    cluster.close()  # asserts that no worker is left that nobody knows of


@pytest.mark.parametrize("what", ["garbage", "newer"])
def test_a_state_that_is_none_is_refused_in_one_sentence(cluster: Cluster, what: str) -> None:
    cluster.state_dir.mkdir()
    path = cluster.state_dir / "state.db"
    if what == "newer":
        import sqlite3

        with sqlite3.connect(path) as db:
            db.execute("PRAGMA user_version = 99")
            db.execute("CREATE TABLE later (x)")
        db.close()
    else:
        path.write_bytes(b"garbage" * 1000)
    before = path.read_bytes()
    for result in (
        cluster.up(*_SIM), _state(cluster, "check"), _state(cluster, "export", "-"),
        clusterctl("down", "--state-dir", str(cluster.state_dir)),
    ):  # fmt: skip
        assert result.returncode == 1 and "left as it is" in result.stderr, result
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert path.read_bytes() == before
    path.unlink()


def test_a_state_is_exported_while_it_is_used_and_imported_elsewhere(
    make_cluster: Callable[[], Cluster], tmp_path: Path, demo_adapters: dict[str, str]
) -> None:
    one, two = make_cluster(), make_cluster()
    assert one.up(*_SIM).returncode == 0
    assert one.run("scale", "3").returncode == 0
    assert one.run("strategy", "random").returncode == 0
    assert one.run("weight", "instance_1", "7").returncode == 0
    adapter = {"lora_name": "mine", "lora_path": next(iter(demo_adapters.values()))}
    assert one.post("/v1/load_lora_adapter", adapter).status_code == 200
    file = tmp_path / "export.tar"
    exported = _state(one, "export", str(file))
    assert exported.returncode == 0, exported.stderr
    piped = subprocess.run(
        [CLI, "state", "export", "-", "--state-dir", str(one.state_dir)], capture_output=True, timeout=60, check=True
    )
    assert piped.stdout == file.read_bytes()
    checked = _state(one, "check")
    assert checked.returncode == 0 and "3 instances, strategy random" in checked.stdout and "in use" in checked.stdout
    refused = _state(one, "import", str(file))
    assert refused.returncode == 1 and "already runs" in refused.stderr

    imported = _state(two, "import", str(file))
    assert imported.returncode == 0, imported.stderr
    assert "adapter mine: version 1 of 1" in _state(two, "check").stdout
    up = two.up("--engine", "sim", "--max-instances", "4")
    assert up.returncode == 0, up.stderr
    status = two.wait_ready(3)
    assert status["load_balancer_strategy"] == "random" and status["instances"]["instance_1"]["weight"] == 7
    assert two.complete("mine").status_code == 200
    assert two.run("scale", "1").returncode == 0
    assert two.run("down").returncode == 0
    different = _state(two, "import", str(file))
    assert different.returncode == 1 and "--force" in different.stderr
    assert _state(two, "import", str(file), "--force").returncode == 0
    assert "3 instances" in _state(two, "check").stdout
