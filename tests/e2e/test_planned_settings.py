"""Settings changed under load: no request fails, and what does not work is taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from harness import Cluster, free_port, kill, poll
from steadyload import FAST, load, pids, started

BAD = (*FAST, "--no-such-flag")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three workers, which all tests but the last two leave ready, with the settings that they found."""
    cluster = Cluster(tmp_path_factory.mktemp("settings"), free_port())
    try:
        yield started(cluster, CLUSTERCTL_RESTART_DELAY="0.1")
    finally:
        cluster.close()


def _argv(cluster: Cluster, name: str) -> list[str]:
    return Path(f"/proc/{cluster.instance(name)['pid']}/cmdline").read_text().split("\0")


def told(cluster: Cluster) -> str:
    return cluster.log("supervisor")


def test_settings_that_do_not_work_stop_at_the_spare_and_are_taken_back(shared: Cluster) -> None:
    before = pids(shared)
    with load(shared) as running:
        result = shared.run("apply", "--", *BAD)
        assert result.returncode == 1
        assert "the spare instance_3 does not get ready" in result.stderr and "--previous" in result.stderr
        assert "the rolling restart stops" in told(shared)
        assert {n: pid for n, pid in pids(shared).items() if pid} == before
        # One of the old crashes: it comes back with what it had, not with what does not work.
        kill(before["instance_1"])
        poll(lambda: (i := shared.instance("instance_1"))["pid"] != before["instance_1"] and i["state"] == "ready", 15)
        assert "--no-such-flag" not in _argv(shared, "instance_1")
        back = shared.run("apply", "--previous")
        assert back.returncode == 0, back.stderr
    assert running.fewest >= 2
    # The load may have lost streams to the kill; to nothing else.
    assert all("instance_1" in failure or "RemoteProtocolError" in failure for failure in running.failures)
    after = pids(shared)
    assert list(after) == list(before) and after["instance_0"] == before["instance_0"]
    assert shared.run("apply", "--dry-run", "--", *FAST).stdout.startswith("nothing to change")


def test_flags_with_which_no_worker_could_hold_the_adapters_are_refused_by_name(shared: Cluster) -> None:
    before = pids(shared)
    result = shared.run("apply", "--", *FAST, "--no-enable-lora")
    assert result.returncode == 1 and "pirate" in result.stderr and "poet" in result.stderr
    assert "nothing was changed" in result.stderr and pids(shared) == before
    assert shared.run("apply", "--dry-run", "--", *FAST).stdout.startswith("nothing to change")


@pytest.mark.parametrize(
    ("fault", "why"), [("refuse_lora", "refused by a fault"), ("drop_lora", "answers with it as the base model does")]
)
def test_a_spare_that_cannot_hold_the_adapters_stops_the_change(shared: Cluster, fault: str, why: str) -> None:
    """What no flag says beforehand: the last worker that held the adapters went down, and all was "done"."""
    before = pids(shared)
    with load(shared) as running:
        result = shared.run("apply", "--", *FAST, "--fault", fault)
        assert result.returncode == 1, result.stdout
        assert "the spare instance_3 cannot hold adapters" in result.stderr and why in result.stderr
        assert {name: pid for name, pid in pids(shared).items() if name != "instance_3"} == before
        assert [shared.complete("pirate").status_code for _ in range(4)] == [200] * 4
        back = shared.run("apply", "--previous")
        assert back.returncode == 0, back.stderr
    assert running.failures == [] and pids(shared) == before


def test_without_a_spare_settings_that_do_not_work_cost_one_worker_at_most(shared: Cluster) -> None:
    before = pids(shared)
    with load(shared) as running:
        result = shared.run("apply", "--no-spare", "--", *BAD)
        assert result.returncode == 1 and "instance_0 does not come back" in result.stderr
        assert {n: p for n, p in pids(shared).items() if p} == {n: p for n, p in before.items() if n != "instance_0"}
        back = shared.run("apply", "--no-spare", "--", *FAST)
        assert back.returncode == 0, back.stderr
    assert running.failures == [] and running.fewest == 2
    after = pids(shared)
    assert (after["instance_1"], after["instance_2"]) == (before["instance_1"], before["instance_2"])
    assert shared.wait_ready(3)["running_instances"] == 3


def test_what_cannot_be_changed_is_named_and_nothing_is(shared: Cluster) -> None:
    before = shared.status()
    result = shared.run("apply", "--port", "1", "--host", "0.0.0.0", "--drain-timeout", "9")
    assert result.returncode == 1
    assert "host, port are not changed on a running cluster" in result.stderr and "nothing was changed" in result.stderr
    shown = shared.run("apply", "--dry-run", "--json", "--port", "1", "--drain-timeout", "9")
    assert shown.returncode == 1
    effects = {c["setting"]: c["effect"] for c in json.loads(shown.stdout)["changes"]}
    assert effects == {"port": "not on a running cluster", "drain_timeout": "at once"}
    assert shared.run("apply", "--max-body", "12").returncode == 2
    assert shared.run("apply", "--max-instances", "2").returncode in (1, 2)
    assert shared.run("apply").returncode == 2
    after = shared.status()
    assert {n: i["pid"] for n, i in after["instances"].items()} == {n: i["pid"] for n, i in before["instances"].items()}


def test_changed_flags_of_the_engine_reach_every_worker_without_a_failed_request(shared: Cluster) -> None:
    before = pids(shared)
    dry = shared.run("apply", "--dry-run", "--", *FAST, "--max-num-seqs", "99")
    assert dry.returncode == 0 and "rolling restart of the workers" in dry.stdout and pids(shared) == before
    with load(shared) as running:
        result = shared.run("apply", "--drain-timeout", "20", "--", *FAST, "--max-num-seqs", "99")
    assert result.returncode == 0, result.stderr
    assert running.failures == []
    assert running.fewest >= 2
    assert not set(pids(shared).values()) & set(before.values())
    assert all("99" in _argv(shared, name) for name in pids(shared))
    again = shared.run("apply", "--drain-timeout", "20", "--", *FAST, "--max-num-seqs", "99")
    assert again.returncode == 0 and "nothing to change" in again.stdout


def test_what_holds_at_once_and_what_the_balancer_has_to_know_outlive_the_supervisor(shared: Cluster) -> None:
    balancer = shared.status()["load_balancer"]["pid"]
    result = shared.run("apply", "--instances", "2", "--strategy", "random", "--max-body", "2048")
    assert result.returncode == 0, result.stderr
    assert "replacement of the balancer" in result.stdout and "at once" in result.stdout

    def replaced() -> bool:
        try:
            return bool(shared.status()["load_balancer"]["pid"] != balancer)
        except httpx.HTTPError:
            return False

    poll(replaced, 20)
    status = shared.wait_ready(2)
    assert status["load_balancer_strategy"] == "random"
    assert shared.complete(user="x" * 4096).status_code == 413
    kill(status["supervisor"]["pid"])
    assert shared.up("--engine", "sim", "--instances", "3").returncode == 0
    status = shared.wait_ready(2)
    assert status["load_balancer_strategy"] == "random"
    again = shared.run("apply", "--dry-run", "--json", "--max-body", "4096")
    (change,) = json.loads(again.stdout)["changes"]
    assert (change["old"], change["new"]) == (2048, 4096)
