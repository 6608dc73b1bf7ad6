from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import Cluster, free_port


@pytest.fixture(scope="session")
def vllm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three real vLLM workers with the demo model and its adapters, for the whole session: they take a minute."""
    cluster = Cluster(tmp_path_factory.mktemp("vllm"), free_port())
    result = cluster.up("--instances", "3", "--max-instances", "3", timeout=400)
    assert result.returncode == 0, result.stderr
    cluster.wait_ready(3, 300)
    yield cluster
    cluster.close()


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[[], Cluster]]:
    """Makes clusters that are not started yet; each is ended, and checked for leftovers, after the test."""
    made: list[Cluster] = []

    def make() -> Cluster:
        made.append(Cluster(tmp_path / f"cluster{len(made)}", free_port()))
        made[-1].root.mkdir()
        return made[-1]

    yield make
    for cluster in made:
        cluster.close()


@pytest.fixture
def cluster(make_cluster: Callable[[], Cluster]) -> Cluster:
    """One that is not started yet."""
    return make_cluster()


@pytest.fixture
def sim(cluster: Cluster) -> Cluster:
    """Three simulated workers, all ready."""
    result = cluster.up("--engine", "sim", "--instances", "3", "--", "--ttft-ms", "1", "--itl-ms", "1")
    assert result.returncode == 0, result.stderr
    cluster.wait_ready(3)
    return cluster
