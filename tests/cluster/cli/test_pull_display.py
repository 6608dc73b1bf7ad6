"""What is fetched for a command that waits is shown while it is."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from cluster.cli.pull_display import pull_shown
from cluster.client import ClusterError


class PullingCluster:
    """Fetches ``hf://org/base``. ``asked``: its status was."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.jobs: list[dict[str, Any]] = [
            {"kind": "train", "state": "running", "progress": {"stage": "train", "done": 1}},
            {"kind": "pull", "state": "running", "progress": {
                "stage": "fetch hf://org/base", "done": 1024, "total": 4096, "unit": "B"}},
        ]  # fmt: skip

    def status(self) -> dict[str, Any]:
        if self.asked.is_set():
            raise ClusterError("it is being replaced")
        self.asked.set()
        return {"jobs": {"latest": self.jobs}}


@pytest.mark.parametrize(
    ("source", "line"),
    [("hf://org/base", "fetch hf://org/base: 1.0 KiB of 4.0 KiB, 25 %\n"), ("hf://org/other", "")],
)
def test_only_the_job_that_fetches_it_is_shown(
    source: str, line: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cluster.cli.pull_display._LOOK_EVERY", 0.02)
    cluster = PullingCluster()
    with pull_shown(cluster, source):  # type: ignore[arg-type]
        assert cluster.asked.wait(10)
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("source", ["/models/a", "gs://x/y", ""])
def test_for_what_is_not_fetched_nobody_is_asked(source: str) -> None:
    with pull_shown(object(), source):  # type: ignore[arg-type]
        pass
