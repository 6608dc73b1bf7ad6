"""Workers that are forked, in a whole cluster: simulated ones, for which that has to be asked for."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from harness import Cluster, free_port, kill, poll
from worker.drivers import proc

_FLAGS = ("--engine", "sim", "--instances", "3", "--zygote", "on", "--", "--ttft-ms", "1", "--itl-ms", "1")


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three workers of a zygote, which all tests here leave so; the last one ends them."""
    cluster = Cluster(tmp_path_factory.mktemp("forked"), free_port())
    try:
        result = cluster.up(*_FLAGS)
        assert result.returncode == 0, result.stderr
        cluster.wait_ready(3)
        yield cluster
    finally:
        cluster.close()


def _zygote(cluster: Cluster) -> dict[str, Any]:
    (found,) = cluster.status()["zygote"]["processes"]
    return dict(found)


def _parents(cluster: Cluster) -> dict[str, int]:
    """By worker, the process that started it."""
    pids = {name: one["pid"] for name, one in cluster.status()["instances"].items()}
    return {name: found.parent for name, pid in pids.items() if pid and (found := proc.stat(pid)) is not None}


def _killed(cluster: Cluster, name: str) -> None:
    """Once it has been started again, and all are ready."""
    before = cluster.instance(name)
    kill(before["pid"])
    poll(lambda: cluster.instance(name)["restarts"] == before["restarts"] + 1, 30, f"{name} is started again")
    cluster.wait_ready(3, 30)


def test_workers_are_forks_and_come_back_as_such(forked: Cluster) -> None:
    zygote = _zygote(forked)
    assert zygote["ready"] and zygote["name"] == "zygote" and set(_parents(forked).values()) == {zygote["pid"]}
    poll(lambda: _zygote(forked)["memory_mb"] > 5, 10, "its memory is counted")
    assert f"zygote: pid {zygote['pid']}" in forked.run("status").stdout
    before = forked.instance("instance_1")
    _killed(forked, "instance_1")
    after = forked.instance("instance_1")
    assert after["incarnation"] != before["incarnation"]
    assert after["last_exit"]["signal"] == signal.SIGKILL, "the zygote told how it ended"
    assert set(_parents(forked).values()) == {zygote["pid"]}
    assert 'process="zygote"' in forked.ask("GET", "/metrics").text


def test_the_next_supervisor_takes_it_over(forked: Cluster) -> None:
    zygote, before = _zygote(forked), forked.status()
    kill(before["supervisor"]["pid"])
    poll(lambda: forked.status()["supervisor"]["pid"] is None, 15)
    assert forked.up(*_FLAGS).returncode == 0
    after = forked.wait_ready(3)
    assert _zygote(forked)["pid"] == zygote["pid"] and set(_parents(forked).values()) == {zygote["pid"]}
    assert all(after["instances"][name]["pid"] == one["pid"] for name, one in before["instances"].items())
    _killed(forked, "instance_2")
    assert set(_parents(forked).values()) == {zygote["pid"]}


def test_a_dead_zygote_harms_no_worker_and_is_started_again(forked: Cluster) -> None:
    zygote, before = _zygote(forked), forked.status()["instances"]
    kill(zygote["pid"])
    poll(lambda: _zygote(forked)["ready"] and _zygote(forked)["pid"] != zygote["pid"], 20, "another is there")
    after = forked.status()["instances"]
    assert {name: one["pid"] for name, one in after.items()} == {name: one["pid"] for name, one in before.items()}
    _killed(forked, "instance_0")
    assert _parents(forked)["instance_0"] == _zygote(forked)["pid"]
    assert forked.complete().status_code == 200


def test_one_that_hangs_is_replaced_and_the_worker_started_plainly(forked: Cluster) -> None:
    zygote = _zygote(forked)
    os.kill(zygote["pid"], signal.SIGSTOP)
    _killed(forked, "instance_2")
    assert _parents(forked)["instance_2"] == forked.status()["supervisor"]["pid"]
    assert "forked no worker" in forked.run("events").stdout
    poll(lambda: _zygote(forked)["ready"] and _zygote(forked)["pid"] != zygote["pid"], 20, "another is there")


def test_it_is_switched_off_and_on_while_the_cluster_runs(forked: Cluster) -> None:
    zygote = _zygote(forked)["pid"]
    assert forked.run("apply", "--zygote", "off").returncode == 0
    poll(lambda: not forked.status()["zygote"]["processes"], 15, "it is gone")
    found = proc.stat(zygote)
    assert found is None or not found.alive
    _killed(forked, "instance_0")
    assert _parents(forked)["instance_0"] == forked.status()["supervisor"]["pid"]
    assert forked.run("apply", "--zygote", "on").returncode == 0
    poll(lambda: forked.status()["zygote"]["processes"] and _zygote(forked)["ready"], 20, "one is there again")
    _killed(forked, "instance_1")
    assert _parents(forked)["instance_1"] == _zygote(forked)["pid"]


def test_down_ends_it_without_a_supervisor_too(forked: Cluster) -> None:
    zygote = _zygote(forked)["pid"]
    kill(forked.status()["supervisor"]["pid"])
    assert forked.run("down", "--state-dir", str(forked.state_dir), timeout=60).returncode == 0
    found = proc.stat(zygote)
    assert (found is None or not found.alive) and not forked.leftovers()
    assert not (forked.state_dir / "run" / "zygote").exists()
