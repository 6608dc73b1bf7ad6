"""Planned changes under load: drain, rolling restarts with and without a spare, scaling. No request fails in any of
them; those of settings are in `test_planned_settings.py`."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest

from harness import Cluster, free_port, kill, poll
from steadyload import FAST, THREE, load, pids, started


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """For tests that leave three workers ready, in rotation, with the settings that they found."""
    cluster = Cluster(tmp_path_factory.mktemp("shared"), free_port())
    try:
        yield started(cluster)
    finally:
        cluster.close()


def test_a_rolling_restart_with_a_spare_loses_nothing_and_is_never_short_of_a_worker(shared: Cluster) -> None:
    before = pids(shared)
    with load(shared) as running:
        result = shared.run("restart", "--rolling")
    assert result.returncode == 0, result.stderr
    assert running.failures == []
    assert running.fewest == 3
    assert "instance_3 stands in meanwhile" in result.stdout and "done: 3 of 3 ready" in result.stdout
    after = pids(shared)
    assert list(after) == list(before) and not set(after.values()) & set(before.values())


def test_a_rolling_restart_without_a_spare_takes_one_at_a_time(shared: Cluster) -> None:
    before = pids(shared)
    with load(shared) as running:
        result = shared.run("restart", "--rolling", "--no-spare")
    assert result.returncode == 0, result.stderr
    assert running.failures == []
    assert running.fewest == 2
    assert not set(pids(shared).values()) & set(before.values())


def test_scaling_down_and_up_again_under_load_loses_nothing(shared: Cluster) -> None:
    with load(shared) as running:
        assert shared.run("scale", "1").returncode == 0
        assert shared.run("scale", "3").returncode == 0
    assert running.failures == []
    assert running.fewest >= 1


def test_workers_come_and_go_with_the_load_and_nothing_fails(cluster: Cluster) -> None:
    """1 -> 6 -> 1: a worker is busy enough with three requests, with four once it is learnt how fast it is, and
    for a second or two nobody takes that back."""
    result = cluster.up(
        "--engine", "sim", "--autoscale", "on", "--max-instances", "6", "--autoscale-load", "0.75",
        "--autoscale-up-after", "1", "--autoscale-down-after", "3", "--", *FAST, "--max-num-seqs", "4",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    with load(cluster, plain=0, streams=1) as little:
        with load(cluster, plain=0, streams=23) as much:
            cluster.wait_ready(6, timeout=40)
            time.sleep(4)
        poll(lambda: cluster.status()["total_instances"] == 1, 40, "back to one")
    assert (little.failures, much.failures) == ([], [])
    events = [e for e in cluster.ask("GET", "/v1/cluster/events").json()["events"] if e["kind"] == "autoscale"]
    counts = [1, *(e["data"]["to"] for e in events)]
    top = counts.index(6)
    assert counts[: top + 1] == sorted(counts[: top + 1]) and counts[top:] == [6, 5, 4, 3, 2, 1], counts


def test_one_of_several_is_restarted_and_the_rest_takes_over(shared: Cluster) -> None:
    before = pids(shared)
    with load(shared) as running:
        assert shared.run("restart", "instance_1").returncode == 0
    assert running.failures == []
    assert {n for n, pid in pids(shared).items() if pid != before[n]} == {"instance_1"}


def test_a_drained_worker_lives_out_of_rotation_until_it_is_undrained(shared: Cluster) -> None:
    before = pids(shared)
    with load(shared) as running:
        result = shared.run("drain", "instance_1")
        assert result.returncode == 0 and "instance_1 is drained" in result.stdout, result.stderr
        seen = shared.instance("instance_1")
        assert (seen["state"], seen["is_running"], seen["in_flight"]) == ("drained", False, 0)
        requests = seen["requests_total"]
        answered = running.answered
        poll(lambda: running.answered > answered + 20, 20)
        assert shared.instance("instance_1")["requests_total"] == requests
        assert shared.status()["supervisor"]["settled"] and shared.status()["total_instances"] == 3
        assert shared.run("drain", "instance_1", "--undo").returncode == 0
        poll(lambda: shared.instance("instance_1")["requests_total"] > requests, 20)
    assert running.failures == []
    assert pids(shared) == before


def test_a_drain_is_kept_by_a_crash_and_by_the_next_supervisor_and_ended_by_a_restart(shared: Cluster) -> None:
    assert shared.run("drain", "instance_0").returncode == 0
    restarts = shared.instance("instance_0")["restarts"]
    kill(shared.instance("instance_0")["pid"])
    poll(lambda: shared.instance("instance_0")["restarts"] == restarts + 1, 15)
    poll(lambda: shared.instance("instance_0")["state"] == "drained", 15)
    kill(shared.status()["supervisor"]["pid"])
    assert shared.up(*THREE).returncode == 0
    poll(lambda: shared.instance("instance_0")["state"] == "drained", 15)
    assert shared.run("restart", "instance_0").returncode == 0
    assert shared.instance("instance_0")["state"] == "ready"


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_drain_of_nobody_is_refused(shared: Cluster, method: str) -> None:
    answer = httpx.request(method, f"{shared.url}/v1/cluster/instances/nobody/drain", json={})
    assert answer.status_code == 404 and "there are: instance_0" in answer.json()["error"]["message"]


def test_a_server_that_is_not_ours_can_be_drained_as_well(shared_sim: Cluster, cluster: Cluster) -> None:
    others = pids(shared_sim)
    assert cluster.up("--engine", "sim", "--backend", shared_sim.url).returncode == 0
    poll(lambda: cluster.instance("backend_0")["state"] == "ready", 15)
    assert cluster.run("drain", "backend_0").returncode == 0
    before = cluster.instance("backend_0")["requests_total"]
    assert all(cluster.complete().status_code == 200 for _ in range(10))
    assert (cluster.instance("backend_0")["state"], cluster.instance("backend_0")["requests_total"]) == (
        "drained", before,
    )  # fmt: skip
    assert cluster.run("drain", "backend_0", "--undo").returncode == 0
    poll(lambda: cluster.complete().status_code == 200 and cluster.instance("backend_0")["requests_total"] > before, 15)
    assert pids(shared_sim) == others


def test_a_rolling_restart_goes_on_under_the_next_supervisor_and_leaves_no_spare(shared: Cluster) -> None:
    before = pids(shared)
    with load(shared) as running:
        assert shared.post("/v1/cluster/restart", {"rolling": True}).json()["spare"] == "instance_3"

        def in_the_middle() -> bool:
            seen = shared.status()["instances"]
            spare = seen.get("instance_3", {})
            return bool(spare.get("is_running") and seen["instance_0"]["pid"] != before["instance_0"])

        poll(in_the_middle, 20)
        kill(shared.status()["supervisor"]["pid"])
        poll(lambda: shared.status()["supervisor"]["pid"] is None, 5)
        result = shared.up(*THREE)
        assert result.returncode == 0, result.stderr
        poll(lambda: shared.status()["supervisor"]["settled"], 30)
    assert running.failures == []
    assert running.fewest >= 2
    after = pids(shared)
    assert list(after) == list(before) and not set(after.values()) & set(before.values())


@pytest.mark.parametrize("how", [["restart", "--rolling"], ["scale", "1"], ["drain", "instance_1", "--grace", "0.3"]])
def test_streams_that_outlast_the_grace_go_on_elsewhere(shared: Cluster, how: list[str]) -> None:
    assert shared.run("apply", "--drain-timeout", "0.3").returncode == 0
    with load(shared, plain=0, streams=6, tokens=400) as running:
        result = shared.run(*how)
        assert result.returncode == 0, result.stderr
    assert running.failures == []
    assert shared.run("apply", "--previous").returncode == 0
    if how[0] == "scale":
        assert shared.run("scale", "3").returncode == 0
    if how[0] == "drain":
        assert shared.run("drain", "instance_1", "--undo").returncode == 0
    shared.wait_ready(3)
