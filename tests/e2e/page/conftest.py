"""One browser and one cluster of simulated workers for all tests of the page."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from browser import Page, browser
from harness import Cluster, free_port
from uipage import clean

#: A kind of jobs that only tests have.
KINDS = os.pathsep.join(str(Path(__file__).parents[2] / folder) for folder in ("jobkinds", "absent"))


@pytest.fixture(scope="session")
def page() -> Iterator[Page]:
    with browser() as made:
        yield made


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory, demo_adapters: dict[str, str]) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("page"), free_port())
    lora = [word for name, path in demo_adapters.items() for word in ("--lora", f"{name}={path}")]
    result = made.up("--engine", "sim", "--instances", "2", "--max-instances", "3", *lora, "--", "--itl-ms", "25",
                     PYTHONPATH=KINDS)  # fmt: skip
    assert result.returncode == 0, result.stderr
    made.wait_ready(2)
    yield made
    made.close()


@pytest.fixture
def shown(page: Page, cluster: Cluster) -> Iterator[Page]:
    """The page of the cluster, live. Afterwards nothing may have been complained of or fetched from elsewhere."""
    page.size(1400, 1000)
    page.open(f"{cluster.url}/ui/")
    page.says("#link", "live")
    yield page
    clean(page, cluster.url)
