"""Workers that are forked, in a whole cluster: simulated ones, for which that has to be asked for."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness import Cluster, kill, poll
from worker.drivers import proc

_FLAGS = ("--engine", "sim", "--instances", "3", "--zygote", "on", "--", "--ttft-ms", "1", "--itl-ms", "1")


@pytest.fixture
def forked(make_cluster: Callable[[], Cluster]) -> Iterator[Cluster]:
    cluster = make_cluster()
    result = cluster.up(*_FLAGS)
    assert result.returncode == 0, result.stderr
    cluster.wait_ready(3)
    yield cluster


def _zygote(cluster: Cluster) -> dict[str, Any]:
    (found,) = cluster.status()["zygote"]["processes"]
    return dict(found)


def _parents(cluster: Cluster) -> set[int]:
    pids = (one["pid"] for one in cluster.status()["instances"].values())
    return {found.parent for pid in pids if pid and (found := proc.stat(pid)) is not None}


def test_workers_are_forks_and_come_back_as_such(forked: Cluster) -> None:
    zygote = _zygote(forked)
    assert zygote["ready"] and zygote["name"] == "zygote" and _parents(forked) == {zygote["pid"]}
    poll(lambda: _zygote(forked)["memory_mb"] > 5, 10, "its memory is counted")
    assert f"zygote: pid {zygote['pid']}" in forked.run("status").stdout
    before = forked.instance("instance_1")
    kill(before["pid"])
    poll(lambda: forked.instance("instance_1")["incarnation"] != before["incarnation"], 15)
    after = forked.wait_ready(3)["instances"]["instance_1"]
    assert after["last_exit"]["signal"] == signal.SIGKILL, "the zygote told how it ended"
    assert after["restarts"] == 1 and _parents(forked) == {zygote["pid"]}
    assert 'process="zygote"' in forked.ask("GET", "/metrics").text


def test_a_dead_zygote_harms_no_worker_and_is_started_again(forked: Cluster) -> None:
    zygote, before = _zygote(forked), forked.status()["instances"]
    kill(zygote["pid"])
    poll(lambda: _zygote(forked)["ready"] and _zygote(forked)["pid"] != zygote["pid"], 20, "another is there")
    after = forked.status()["instances"]
    assert {name: one["pid"] for name, one in after.items()} == {name: one["pid"] for name, one in before.items()}
    kill(before["instance_0"]["pid"])
    poll(lambda: forked.instance("instance_0")["restarts"] == 1, 15)
    forked.wait_ready(3)
    assert _zygote(forked)["pid"] in _parents(forked)
    assert forked.complete().status_code == 200


def test_one_that_hangs_is_replaced_and_the_worker_started_plainly(forked: Cluster) -> None:
    zygote = _zygote(forked)
    os.kill(zygote["pid"], signal.SIGSTOP)
    kill(forked.instance("instance_0")["pid"])
    poll(lambda: forked.instance("instance_0")["restarts"] == 1, 30)
    status = forked.wait_ready(3, 30)
    assert status["supervisor"]["pid"] in _parents(forked)
    assert "forked no worker" in forked.run("events").stdout
    poll(lambda: _zygote(forked)["ready"] and _zygote(forked)["pid"] != zygote["pid"], 20, "another is there")


def test_the_next_supervisor_takes_it_over(forked: Cluster) -> None:
    zygote, before = _zygote(forked), forked.status()
    kill(before["supervisor"]["pid"])
    poll(lambda: forked.status()["supervisor"]["pid"] is None, 15)
    assert forked.up(*_FLAGS).returncode == 0
    after = forked.wait_ready(3)
    assert _zygote(forked)["pid"] == zygote["pid"] and _parents(forked) == {zygote["pid"]}
    assert all(after["instances"][name]["pid"] == one["pid"] for name, one in before["instances"].items())
    kill(after["instances"]["instance_2"]["pid"])
    poll(lambda: forked.instance("instance_2")["restarts"] == 1, 15)
    forked.wait_ready(3)
    assert _parents(forked) == {zygote["pid"]}


def test_down_ends_it_without_a_supervisor_too(forked: Cluster) -> None:
    zygote = _zygote(forked)["pid"]
    kill(forked.status()["supervisor"]["pid"])
    assert forked.run("down", "--state-dir", str(forked.state_dir), timeout=60).returncode == 0
    found = proc.stat(zygote)
    assert (found is None or not found.alive) and not forked.leftovers()
    assert not (forked.state_dir / "run" / "zygote").exists()


def test_it_is_switched_off_and_on_while_the_cluster_runs(forked: Cluster) -> None:
    zygote = _zygote(forked)["pid"]
    assert forked.run("apply", "--zygote", "off").returncode == 0
    poll(lambda: not forked.status()["zygote"]["processes"], 15, "it is gone")
    found = proc.stat(zygote)
    assert found is None or not found.alive
    kill(forked.instance("instance_0")["pid"])
    poll(lambda: forked.instance("instance_0")["restarts"] == 1, 15)
    status = forked.wait_ready(3)
    assert status["supervisor"]["pid"] in _parents(forked)
