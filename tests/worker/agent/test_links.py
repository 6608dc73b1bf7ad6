"""Which nodes are known, and which are forgotten."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agents import Agents
from worker.drivers.remote.links import AgentLinks
from worker.drivers.remote.protocol import AgentAddress

_THERE = {name: AgentAddress(f"10.0.0.{number}", 1, "key") for number, name in enumerate("abc")}


@pytest.mark.parametrize("lease", [60.0, 900.0])
async def test_a_node_that_was_lost_long_ago_and_that_nobody_names_is_forgotten(tmp_path: Path, lease: float) -> None:
    """As an autoscaler takes nodes away for good; within the lease something may still run there."""
    links, now = AgentLinks(Agents(tmp_path), 1, lease), asyncio.get_running_loop().time()
    assert links._follow(_THERE)
    for name, silent_s in (("a", 800.0), ("b", 500.0), ("c", 800.0)):
        links.nodes[name].lost, links.nodes[name].heard_at = True, now - silent_s
    named = {"c": _THERE["c"]}
    assert links._forget(named) is (lease < 800)
    assert set(links.nodes) == ({"b", "c"} if lease < 800 else set("abc"))
    links.nodes["b"].lost, links.nodes["b"].heard_at = False, now - 10_000.0
    links._forget(named)
    assert "b" in links.nodes, "it answers"
    await links._tasks.close()


async def test_why_nobody_knows_of_nodes_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, answers = Agents(tmp_path), iter(["away", "away", "", "away", "hung"])

    def look() -> dict[str, AgentAddress]:
        if why := next(answers):
            raise OSError(why)
        return {}

    monkeypatch.setattr(directory, "agents", look)
    links = AgentLinks(directory, 1, 60.0)
    for _ in range(5):
        await links._look_for_nodes()
    assert [record.getMessage().rpartition(" ")[2] for record in caplog.records] == ["away", "away", "hung"]
