"""`up` in a terminal: what it says once the start has come to something, or to nothing."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.lifecycle import foreground
from config.settings import Settings


def _instance(state: str, **more: Any) -> dict[str, Any]:
    return {"state": state, "managed": True, "is_running": state == "ready", "reason": "", **more}


@pytest.mark.parametrize(
    ("instance", "last"),
    [
        (_instance("ready"), "cluster: 1 ready after"),
        (
            _instance("failed", reason="exited with code 2", last_exit={"log": ["usage:", "error: no flag --foo"]}),
            "cluster: every worker has failed",
        ),
    ],
)
def test_a_start_ends_with_how_to_use_it_or_why_it_failed(
    instance: dict[str, Any], last: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    snapshot = {
        "supervisor": {"state_dir": str(tmp_path), "settled": True}, "instances": {"instance_0": instance},
        "load_balancer": {"restarts": 0, "standby": 1},
    }  # fmt: skip
    with caplog.at_level(logging.INFO):
        asyncio.run(foreground._narrate(lambda: snapshot, Settings(state_dir=str(tmp_path)), live=False))
    said = [record.getMessage() for record in caplog.records]
    assert said[-1].startswith(last)
    assert ("    error: no flag --foo" in said) is (instance["state"] == "failed")
