"""An autoscaler of Ray's sees what workers lack: only with a real one it shows that it starts nodes for it, and takes
them away again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import rayhead
from harness import Cluster, free_port, poll

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rayhead.Head]:
    """Its own node has no GPU, each other one two."""
    with rayhead.autoscaling(tmp_path_factory.mktemp("ray"), {"CPU": 4, "GPU": 2}, most=3, idle_s=8) as made:
        yield made


def _there(cluster: Cluster) -> dict[str, str]:
    """Where each worker that serves does."""
    return {name: one["host"] for name, one in cluster.status()["instances"].items() if one["is_running"]}


def test_nodes_come_for_workers_and_go_without(head: rayhead.Head, tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, free_port(), driver=head.driver)
    try:
        given = ("--engine", "sim", "--instances", "1", "--ray-resources", "GPU=2,CPU=1")
        result = cluster.up(*given, timeout=180)
        assert result.returncode == 0, result.stderr + head.autoscaler_log()
        first = _there(cluster)["instance_0"]
        assert head.nodes() == [rayhead.HOST, first], "the head has no GPU, and one more node is enough"
        cluster.run("scale", "2", timeout=120)
        second = _there(cluster)["instance_1"]
        assert head.nodes() == sorted([rayhead.HOST, first, second]) and first != second
        cluster.run("scale", "1", timeout=60)
        poll(lambda: head.nodes() == [rayhead.HOST, first], 90, "the second is taken away")
        assert _there(cluster) == {"instance_0": first} and cluster.complete().status_code == 200
    finally:
        cluster.close()
    poll(lambda: head.nodes() == [rayhead.HOST], 90, "both are")
