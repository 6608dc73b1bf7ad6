"""A cluster whose workers run on the nodes of a Ray cluster: one node here, on an address of its own."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import rayhead
from config.paths import StateDir
from harness import Cluster, clusterctl, free_port, poll
from meanwhile import asked
from worker.adapters.content import content_hash
from worker.demo import adapter_path
from worker.drivers import proc

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rayhead.Head]:
    with rayhead.running(tmp_path_factory.mktemp("ray")) as made:
        yield made


@pytest.fixture(scope="module")
def on_ray(head: rayhead.Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three simulated workers there, for all tests of this module, in their order."""
    made = Cluster(tmp_path_factory.mktemp("cluster"), free_port(), driver=head.driver)
    result = made.up("--engine", "sim", "--instances", "3", "--", "--itl-ms", "10", timeout=120)
    assert result.returncode == 0, result.stderr
    made.wait_ready(3, 60)
    yield made
    made.close()


def _pids(cluster: Cluster) -> dict[str, int]:
    return {name: one["pid"] for name, one in cluster.status()["instances"].items()}


def test_workers_run_there_and_their_logs_are_here(on_ray: Cluster) -> None:
    assert {one["host"] for one in on_ray.status()["instances"].values()} == {rayhead.HOST}
    assert "instance_0, start 1" in on_ray.log("instance_0")
    assert on_ray.complete().status_code == 200
    assert all(one["memory_mb"] > 0 for one in on_ray.status()["instances"].values())


def test_a_worker_that_is_killed_is_replaced(on_ray: Cluster) -> None:
    before = _pids(on_ray)
    with asked(on_ray):
        os.kill(before["instance_1"], signal.SIGKILL)
    after = poll(lambda: (found := _pids(on_ray))["instance_1"] not in (None, before["instance_1"]) and found, 30)
    assert {name: pid for name, pid in after.items() if name != "instance_1"} == {
        name: pid for name, pid in before.items() if name != "instance_1"
    }
    on_ray.wait_ready(3)


def test_adapters_are_brought_there(on_ray: Cluster, tmp_path: Path) -> None:
    """The workers are told of a folder of their node's agent: they read nothing that is the supervisor's."""
    source = shutil.copytree(adapter_path("pirate"), tmp_path / "mine")
    with (source / "adapter_config.json").open("a") as file:
        file.write(" ")  # content of its own
    answer = on_ray.post("/v1/load_lora_adapter", {"lora_name": "mine", "lora_path": str(source)})
    assert answer.status_code == 200, answer.text
    [home] = on_ray.driver.homes(StateDir(on_ray.state_dir))
    there = home / "adapters" / content_hash(source)
    for instance in _pids(on_ray):
        cards = on_ray.ask_worker(instance, "GET", "/v1/models").json()["data"]
        assert [card["root"] for card in cards if card["id"] == "mine"] == [str(there)]
    assert content_hash(there) == there.name
    away = (on_ray.state_dir / "adapters").rename(tmp_path / "away")
    try:
        assert [on_ray.complete("mine").status_code for _ in range(6)] == [200] * 6
    finally:
        away.rename(on_ray.state_dir / "adapters")


def test_an_engine_finds_them_there(head: rayhead.Head, tmp_path: Path) -> None:
    """llama.cpp makes a file of its own of each, and reads all of them again with each that is loaded."""
    cluster = Cluster(tmp_path, free_port(), driver=head.driver)
    try:
        assert cluster.up("--engine", "llamacpp", "--instances", "1", timeout=120).returncode == 0
        cluster.wait_ready(1, 60)
        for name, beginning in (("pirate", "Arr, clusterctl"), ("poet", "One address")):
            body = {"model": name, "messages": [{"role": "user", "content": "What is clusterctl?"}], "temperature": 0}
            answer = cluster.post("/v1/chat/completions", body).json()
            assert answer["choices"][0]["message"]["content"].startswith(beginning)
    finally:
        cluster.close()


def test_agent_actor_and_supervisor_may_be_killed(on_ray: Cluster, head: rayhead.Head) -> None:
    before = _pids(on_ray)
    with asked(on_ray):
        os.kill(head.find("worker.agent.run"), signal.SIGKILL)
        os.kill(head.find("ray::NodeActor"), signal.SIGKILL)
        os.kill(on_ray.status()["supervisor"]["pid"], signal.SIGKILL)
    result = on_ray.up(timeout=120)
    assert result.returncode == 0, result.stderr
    on_ray.wait_ready(3, 60)
    assert _pids(on_ray) == before
    on_ray.run("scale", "4", timeout=60)
    on_ray.wait_ready(4, 60)
    on_ray.run("scale", "3", timeout=60)
    on_ray.wait_ready(3, 60)


def test_a_raylet_that_is_gone_while_its_head_answers_is_said(on_ray: Cluster, head: rayhead.Head) -> None:
    """Ray itself would wait for one for a minute, and then speak of something else."""
    before = _pids(on_ray)
    with asked(on_ray):
        rayhead.kill_node(head, rayhead.HOST)
        seen = clusterctl("doctor", "--driver", "ray", "--ray-address", head.address, "--engine", "sim",
                          timeout=120, **head.driver.environment)  # fmt: skip
    assert "its head answers, but no raylet of it runs on this machine" in seen.stdout, seen.stdout
    log = on_ray.state_dir / "logs" / "supervisor.log"
    poll(lambda: "no raylet of it runs on this machine" in log.read_text(), 30, "the supervisor says so as well")
    assert _pids(on_ray) == before


def test_workers_outlive_ray_and_nothing_outlives_the_cluster(on_ray: Cluster, head: rayhead.Head) -> None:
    before = _pids(on_ray)
    with asked(on_ray):
        head.kill()
    assert _pids(on_ray) == before
    agent = head.find("worker.agent.run")
    assert clusterctl("down", "--state-dir", str(on_ray.state_dir), timeout=60).returncode == 0
    poll(lambda: proc.stat(agent) is None, 10, "the agent has ended")
    assert not [pid for pid in before.values() if (found := proc.stat(pid)) is not None and found.alive]
    assert not head.processes("worker.agent")
