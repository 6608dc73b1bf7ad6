"""Real engines that die under their API servers, ten times in each way: no innocent request is lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from enginedeaths import CASES, rounds, two_workers
from harness import Cluster

pytestmark = [pytest.mark.soak, pytest.mark.vllm, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with two_workers(tmp_path_factory.mktemp("engines")) as cluster:
        yield cluster


@pytest.mark.parametrize("case", CASES)
def test_no_innocent_is_lost(cluster: Cluster, case: str) -> None:
    for number, outcome in enumerate(rounds(cluster, case, 10), 1):
        assert not outcome.lost, f"round {number}"
        assert "EngineCore" not in outcome.poison
