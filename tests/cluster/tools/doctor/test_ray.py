"""What is said of a Ray that is wanted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from cluster.tools.doctor import ray
from config.settings import load
from doctorfacts import facts, plan
from worker.drivers.nodes import WorkerNeed


def _node(**said: Any) -> dict[str, Any]:
    fine = {"skew_s": 0.0, "agents": [_agent()], "clusterctl": "1.0", "unreachable": ""}
    return {"host": "10.0.0.1", "gpus": 2.0, "free": 1.0, "said": {**fine, **said}}


def _agent(**said: Any) -> dict[str, Any]:
    return {"cluster": "0a1b", "workers": 2, "silent_s": 0.2, "left_s": 119.8, **said}


def _ray(*nodes: dict[str, Any]) -> dict[str, Any]:
    return {"version": "2.60.0", "clusterctl": "1.0", "address": "10.0.0.1:6379", "nodes": list(nodes)}


@pytest.mark.parametrize(
    ("found", "level", "words"),
    [
        ({"missing": True}, "problem", "not installed"),
        ({"error": "version mismatch"}, "problem", "auto: version mismatch"),
        (_ray(_node()), "ok", "1 of 2 GPUs free, 1 agent, reachable, "),
        (_ray(_node(error="it died")), "problem", "it died"),
        (_ray(_node(clusterctl="")), "problem", "cannot be imported there"),
        (_ray(_node(clusterctl="0.9")), "problem", "clusterctl 0.9 is installed there, and 1.0 here"),
        (_ray(_node(unreachable="10.0.0.1:4711: timed out")), "problem", "cannot be reached at 10.0.0.1:4711: timed"),
        (_ray(_node(agents=[_agent(silent_s=50.0, left_s=70.0)])), "warning", "2 workers of it will end in 70 s"),
        (_ray(_node(agents=[{"cluster": "0a1b", "error": "timed out"}])), "warning", "does not answer: timed out"),
        (_ray(_node(skew_s=7.5)), "warning", "7.5 s off"),
    ],
)
def test_each_trouble_has_its_line(found: dict[str, Any], level: str, words: str) -> None:
    last = list(ray.findings(facts(ray=found)))[-1]
    assert last.level == level and words in last.text
    assert last.remedy or level == "ok"


def test_more_gpus_than_any_node_has() -> None:


    wanted = replace(plan(), need=WorkerNeed(4))
    last = list(ray.findings(facts(plan=wanted, ray=_ray(_node()))))[-1]
    assert last.level == "problem" and "needs 4 GPUs on one node, and the most that one has are 2" in last.text


def test_without_ray_nobody_is_asked() -> None:
    assert ray.look(load({})) is None and ray.look(None) is None
    assert not list(ray.findings(facts()))
