"""GPUs that Ray believes in: two nodes with two each, and workers that get what Ray gives them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import rayhead
from harness import Cluster, clusterctl, free_port, poll
from worker.drivers.remote.node import LOST_S

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]

_NO_TOKEN = {"RAY_AUTH_MODE": "disabled"}
_OTHER = "127.0.0.3"

#: One model takes two GPUs for each worker, the other one.
_MODELS = """
models:
  large: {path: demo, engine: sim, instances: 1, pinned: true, ray_resources: {GPU: 2}}
  small: {path: demo, engine: sim, instances: 2, pinned: true, max: 3, ray_resources: {GPU: 1, CPU: 1, fast: 0.01}}
"""


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rayhead.Head]:
    given = ("--num-gpus=2", "--resources", '{"fast": 1}')
    with rayhead.running(tmp_path_factory.mktemp("ray"), *given) as made:
        rayhead.join(made, _OTHER, *given)
        yield made


@pytest.fixture(scope="module")
def on_gpus(head: rayhead.Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = tmp_path_factory.mktemp("cluster")
    made = Cluster(folder, free_port())
    (folder / "models.yaml").write_text(_MODELS)
    given = ("--driver", "ray", "--ray-address", head.address, "--config", str(folder / "models.yaml"))
    result = made.up(*given, "--instances", "0", timeout=180, **_NO_TOKEN)
    assert result.returncode == 0, result.stderr
    yield made
    made.close()


def _running(cluster: Cluster, count: int) -> dict[str, dict[str, Any]]:
    """Once so many serve."""

    def ready() -> dict[str, dict[str, Any]] | None:
        seen = {name: one for name, one in cluster.status()["instances"].items() if one["is_running"]}
        return seen if len(seen) == count else None

    return poll(ready, 90, f"{count} workers serve")


def _pinned(one: dict[str, Any]) -> str:
    environ = Path(f"/proc/{one['pid']}/environ").read_bytes().split(b"\0")
    return next(word for word in environ if word.startswith(b"CUDA_VISIBLE_DEVICES=")).decode().partition("=")[2]


def _gpus(seen: dict[str, dict[str, Any]]) -> list[tuple[str, int]]:
    return sorted((one["node"], gpu) for one in seen.values() for gpu in one["gpus"])


def test_each_worker_is_pinned_to_what_ray_gave_it(on_gpus: Cluster) -> None:
    seen = _running(on_gpus, 3)
    assert sorted(len(one["gpus"]) for one in seen.values()) == [1, 1, 2]
    assert len(set(_gpus(seen))) == 4, "no GPU is two workers' own"
    assert all(_pinned(one) == ",".join(map(str, one["gpus"])) for one in seen.values())
    nodes = {node["name"]: node for node in on_gpus.status()["nodes"]}
    assert {node["gpus"] for node in nodes.values()} == {2}
    poll(lambda: {node["free_gpus"] for node in on_gpus.status()["nodes"]} == {0}, 10, "Ray knows that they are used")


def _findings(head: rayhead.Head) -> dict[str, dict[str, Any]]:
    """The doctor's, by check."""
    asked = clusterctl("doctor", "--driver", "ray", "--ray-address", head.address, "--engine", "sim",
                       "--ray-resources", "GPU=3", "--json", timeout=120, **_NO_TOKEN)  # fmt: skip
    return {one["check"]: one for one in json.loads(asked.stdout)["findings"]}


def test_the_doctor_asks_the_nodes(on_gpus: Cluster, head: rayhead.Head) -> None:
    found = _findings(head)
    for host in (rayhead.HOST, _OTHER):
        assert found[f"node {host}"]["level"] == "ok", found[f"node {host}"]
        assert "0 of 2 GPUs free, 1 agent, reachable" in found[f"node {host}"]["text"]
    assert not [check for check in found if check.startswith("agent ")], "each is asked by its supervisor"
    assert "needs 3 GPUs" in found["gpus"]["text"]


def test_what_nobody_has_is_said_and_had_when_it_is_there(on_gpus: Cluster) -> None:
    on_gpus.run("scale", "3", "--model", "small", "--no-wait", timeout=60)

    def lacking() -> str | None:
        phases = [one["phase"] for one in on_gpus.status()["instances"].values()]
        return next((phase for phase in phases if "no node has 1 GPU" in phase), None)

    assert "0 of 2 GPU" in poll(lacking, 30, "it says what is lacking")
    on_gpus.run("scale", "2", "--model", "small", timeout=60)


def test_a_raylet_and_the_supervisor_may_be_killed(on_gpus: Cluster, head: rayhead.Head) -> None:
    before = _running(on_gpus, 3)
    os.kill(on_gpus.status()["supervisor"]["pid"], signal.SIGKILL)
    time.sleep(LOST_S)
    seen = _findings(head)
    assert [one["level"] for check, one in seen.items() if check.startswith("agent ")] == ["warning"] * 2
    assert any("no supervisor has asked it for" in one["text"] for one in seen.values())
    rayhead.kill_node(head, _OTHER)
    result = on_gpus.up(timeout=120, **_NO_TOKEN)
    assert result.returncode == 0, result.stderr
    rayhead.join(head, _OTHER, "--num-gpus=2", "--resources", '{"fast": 1}')
    after = _running(on_gpus, 3)
    assert {name: one["pid"] for name, one in after.items()} == {name: one["pid"] for name, one in before.items()}

    def held() -> bool:
        nodes = on_gpus.status()["nodes"]
        return len(nodes) == 2 and {(node["gpus"], node["free_gpus"]) for node in nodes} == {(2, 0)}

    poll(held, 60, "Ray holds again what they use")


def test_a_place_that_is_given_up_is_free(on_gpus: Cluster, head: rayhead.Head) -> None:
    on_gpus.run("scale", "1", "--model", "small", timeout=60)
    poll(lambda: sum(node["free_gpus"] or 0 for node in on_gpus.status()["nodes"]) == 1, 30, "one GPU is free")


def test_what_is_held_for_a_cluster_of_which_nothing_runs_is_given_back(on_gpus: Cluster, head: rayhead.Head) -> None:
    """Its workers and agents may have ended with their lease, long after its supervisor."""
    assert head.processes("ray::GpuHolder")
    seen = on_gpus.status()
    ours = (seen["supervisor"]["pid"], seen["load_balancer"]["pid"])
    for pid in (*ours, *head.processes("worker.agent"), *head.processes("worker.sim")):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    on_gpus.close()
    poll(lambda: not head.processes("ray::GpuHolder"), 30, "no actor holds anything any more")
