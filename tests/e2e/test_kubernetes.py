"""A cluster whose workers run in pods. The API server is a stub (`kubestub`), pods are agents on this machine, each at
an address of its own; supervisor, balancer, agents and workers are what runs in a real one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import kubestub
from browser import CHROMIUM, DRIVER, browser
from harness import Cluster, clusterctl, free_port, poll
from meanwhile import asked
from worker.demo import adapter_path
from worker.drivers import proc

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def kubernetes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kubestub.Kubernetes]:
    with kubestub.running(tmp_path_factory.mktemp("kubernetes")) as made:
        yield made


@pytest.fixture(scope="module")
def in_pods(kubernetes: kubestub.Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three simulated workers, for all tests of this module, in their order. The first of them is in the first pod, and
    comes back to it: a pod below one that is used cannot go."""
    made = Cluster(tmp_path_factory.mktemp("cluster"), free_port())
    _up(made, kubernetes)
    assert made.run("scale", "3", timeout=60).returncode == 0
    made.wait_ready(3, 60)
    yield made
    made.close()


def _up(cluster: Cluster, kubernetes: kubestub.Kubernetes) -> None:
    """With one worker."""
    given = ("--driver", "kubernetes", "--agent-key-file", str(kubernetes.key_file), "--leave-workers")
    result = cluster.up(
        *given, "--engine", "sim", "--instances", "1", "--", "--itl-ms", "10", timeout=120, **_config(kubernetes)
    )
    assert result.returncode == 0, result.stderr


def _config(kubernetes: kubestub.Kubernetes) -> dict[str, str]:
    return {"KUBECONFIG": str(kubernetes.config)}


def _instances(cluster: Cluster) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = cluster.status()["instances"]
    return found


def _pids(cluster: Cluster) -> dict[str, int]:
    return {name: one["pid"] for name, one in _instances(cluster).items()}


def _pod_of(kubernetes: kubestub.Kubernetes, cluster: Cluster, instance: str) -> str:
    host = _instances(cluster)[instance]["host"]
    return next(name for name, pod in kubernetes.stub.pods.items() if pod.host == host)


def _path_of(cluster: Cluster, instance: str, adapter: str) -> Path:
    """As the worker itself says it."""
    one = cluster.instance(instance)
    headers = {"Authorization": f"Bearer {cluster.worker_key(instance)}"}
    cards = httpx.get(f"http://{one['host']}:{one['port']}/v1/models", headers=headers).json()["data"]
    return Path(next(card["root"] for card in cards if card["id"] == adapter))


def test_there_are_as_many_pods_as_workers(in_pods: Cluster, kubernetes: kubestub.Kubernetes) -> None:
    hosts = [one["host"] for one in _instances(in_pods).values()]
    assert sorted(hosts) == sorted(pod.host for pod in kubernetes.stub.pods.values()) and len(set(hosts)) == 3
    assert "instance_0, start 1" in in_pods.log("instance_0")
    assert in_pods.complete().status_code == 200
    for host in hosts:
        agent = f"http://{host}:{kubernetes.stub.agents}"
        assert httpx.get(f"{agent}/readyz").status_code == 200, "its pod is ready"
        assert httpx.post(f"{agent}/v1/poll", json={}).status_code == 401


@pytest.mark.parametrize("how", ["kill", "delete"])
def test_a_pod_that_ends_loses_nobodys_answer(in_pods: Cluster, kubernetes: kubestub.Kubernetes, how: str) -> None:
    pod = _pod_of(kubernetes, in_pods, "instance_1")
    before, uid = _pids(in_pods), kubernetes.stub.pods[pod].uid
    with asked(in_pods):
        kubernetes.call(lambda: getattr(kubernetes.stub, how)(pod))
    after = poll(lambda: (found := _pids(in_pods))["instance_1"] not in (None, before["instance_1"]) and found, 60)
    assert {name: pid for name, pid in after.items() if name != "instance_1"} == {
        name: pid for name, pid in before.items() if name != "instance_1"
    }
    in_pods.wait_ready(3, 60)
    assert kubernetes.stub.pods[pod].uid != uid


def test_adapters_come_to_every_pod_and_to_the_one_after_it(
    in_pods: Cluster, kubernetes: kubestub.Kubernetes
) -> None:
    body = {"lora_name": "pirate-2", "lora_path": str(adapter_path("pirate"))}
    answer = in_pods.post("/v1/load_lora_adapter", body)
    assert answer.status_code == 200, answer.text
    pod = _pod_of(kubernetes, in_pods, "instance_2")
    kubernetes.call(lambda: kubernetes.stub.kill(pod))
    poll(lambda: in_pods.status()["running_instances"] == 2, 20, "it is gone")
    in_pods.wait_ready(3, 60)
    for name, one in _instances(in_pods).items():
        path, pod = _path_of(in_pods, name, "pirate-2"), _pod_of(kubernetes, in_pods, name)
        assert path.is_relative_to(kubernetes.stub.home(pod, one["host"])), "brought there by its content"
    texts = {in_pods.complete("pirate-2", temperature=0).json()["choices"][0]["text"] for _ in range(12)}
    assert len(texts) == 1


def test_without_the_api_server_workers_are_started_again_where_they_were(
    in_pods: Cluster, kubernetes: kubestub.Kubernetes
) -> None:
    before = _pids(in_pods)
    kubernetes.away()
    with asked(in_pods):
        os.kill(before["instance_0"], signal.SIGKILL)
    poll(lambda: _pids(in_pods)["instance_0"] not in (None, before["instance_0"]), 30)
    in_pods.wait_ready(3, 30)
    kubernetes.up()


def test_the_number_of_pods_follows_that_of_workers(in_pods: Cluster, kubernetes: kubestub.Kubernetes) -> None:
    with asked(in_pods):
        assert in_pods.run("scale", "1", timeout=60).returncode == 0
    kubernetes.wait_pods(1, 60)
    in_pods.wait_ready(1)
    assert in_pods.run("scale", "3", timeout=60).returncode == 0
    in_pods.wait_ready(3, 60)
    assert kubernetes.running() == [f"{kubestub.NAME}-{number}" for number in range(3)]


def test_a_supervisor_whose_pod_is_moved_leaves_the_workers_to_the_next(
    in_pods: Cluster, kubernetes: kubestub.Kubernetes
) -> None:
    before, supervisor = _pids(in_pods), in_pods.status()["supervisor"]["pid"]
    with asked(in_pods):
        os.kill(supervisor, signal.SIGTERM)
    poll(lambda: (found := proc.stat(supervisor)) is None or not found.alive, 60, "it has ended")
    assert all((found := proc.stat(pid)) is not None and found.alive for pid in before.values())
    result = in_pods.up(timeout=120, **_config(kubernetes))
    assert result.returncode == 0, result.stderr
    in_pods.wait_ready(3, 60)
    assert _pids(in_pods) == before


@pytest.mark.skipif(not (CHROMIUM and DRIVER) and "CI" not in os.environ, reason="needs chromium and chromedriver")
def test_the_page_shows_each_node_and_one_that_is_lost(in_pods: Cluster, kubernetes: kubestub.Kubernetes) -> None:
    """In a real browser. Its worker is started in a pod above then, so that tests of their number come before."""
    host = _instances(in_pods)["instance_1"]["host"]
    lost, node = _pod_of(kubernetes, in_pods, "instance_1"), _instances(in_pods)["instance_1"]["node"]
    with browser() as page:
        page.open(f"{in_pods.url}/ui/")
        for name, one in _instances(in_pods).items():
            page.says(f"#nodes li[data-key='{one['node']}']", f"up {one['node']}: 1 running")
            page.says(f"#instances tr[data-key='{name}']", f"{one['node']} · ")
        agent = next(one for one in psutil.Process(kubernetes.stub.pods[lost].process.pid).children(recursive=True)
                     if "worker.agent.run" in one.cmdline())  # fmt: skip
        agent.suspend()
        try:
            page.says(f"#nodes li[data-key='{node}']", f"lost {node}: 0 running, heard")
        finally:
            agent.resume()
        page.says(f"#nodes li[data-key='{node}']", f"up {node}")
        assert page.complaints() == []
    in_pods.wait_ready(3, 60)
    assert host in {pod.host for pod in kubernetes.stub.pods.values()}, "it is the same pod"


def test_nothing_is_left_of_a_cluster_that_has_ended(in_pods: Cluster, kubernetes: kubestub.Kubernetes) -> None:
    before = _pids(in_pods)
    assert clusterctl("down", "--state-dir", str(in_pods.state_dir), timeout=60).returncode == 0
    assert not [pid for pid in before.values() if (found := proc.stat(pid)) is not None and found.alive]
    poll(lambda: not kubernetes.stub.pods, 30, "no pods")


def test_down_takes_the_pods_away_without_a_supervisor_or_says_why_it_cannot(
    in_pods: Cluster, kubernetes: kubestub.Kubernetes
) -> None:
    _up(in_pods, kubernetes)
    os.kill(in_pods.status()["supervisor"]["pid"], signal.SIGKILL)
    kubernetes.stub.patches = [403]
    down = ("down", "--state-dir", str(in_pods.state_dir))
    refused = clusterctl(*down, timeout=120, **_config(kubernetes))
    assert refused.returncode == 1 and "the pods of workers stay (statefulsets/" in refused.stderr, refused.stderr
    kubernetes.wait_pods(1, 60)
    again = clusterctl(*down, timeout=120, **_config(kubernetes))
    assert again.returncode == 0 and again.stdout == "down\n", again.stderr
    poll(lambda: not kubernetes.stub.pods, 30, "no pods")
