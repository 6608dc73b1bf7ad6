"""``python -m worker.drivers.ray.survey ADDRESS``: what ``clusterctl doctor`` asks of a Ray, as a line of JSON.

``{"error": why}``, or ``{"version": ..., "address": ..., "nodes": [{"host", "gpus", "free", "said"}]}``; ``said`` is
what a task on that node answered (`look_around`), or ``{"error": why}``. Changes nothing there."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from worker.drivers.ray import exposure, room

#: How long (s) all nodes together may take to start a task and answer.
_ANSWER_S = 30.0


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever Ray prints is no answer
    try:
        found = survey(sys.argv[1])
    except Exception as error:  # Ray raises whatever it likes
        found = {"error": next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]}
    answers.write(json.dumps(found) + "\n")


def survey(address: str) -> dict[str, Any]:
    import ray
    from ray._private.state import available_resources_per_node

    ray.init(address=address, namespace="clusterctl-doctor", log_to_driver=False, configure_logging=False)
    head = ray.get_runtime_context().gcs_address
    exposure.check(head, os.environ)
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    free, said = available_resources_per_node(), _ask(ray, nodes)
    return {"version": ray.__version__, "address": head, "nodes": [
        {"host": node["NodeManagerAddress"], "gpus": node["Resources"].get(room.GPU, 0.0),
         "free": free.get(name, {}).get(room.GPU, 0.0), "said": said[name]}
        for name, node in nodes.items()
    ]}  # fmt: skip


def _ask(ray: Any, nodes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task, began = ray.remote(look_around), time.time()
    asked = {
        name: task.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False)).remote(
            node["NodeManagerAddress"])
        for name, node in nodes.items()
    }  # fmt: skip
    done, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=_ANSWER_S)
    return {name: _answer(ray, one, began) if one in done else {"error": f"no answer within {_ANSWER_S:g} s"}
            for name, one in asked.items()}  # fmt: skip


def _answer(ray: Any, one: Any, began: float) -> dict[str, Any]:
    try:
        found = dict(ray.get(one))
    except Exception as error:  # Ray raises whatever it likes
        return {"error": next(iter(str(error).strip().splitlines()), type(error).__name__)[:300]}
    now, there = time.time(), found.pop("time")
    # It was answered at some time between: only what lies outside of that is another clock.
    return {**found, "skew_s": round(max(0.0, began - there, there - now), 1)}


def look_around(host: str) -> dict[str, Any]:
    """On a node. ``agents``: of how many clusters one runs; ``clusterctl``: whether it can be imported there."""
    import importlib.util
    import time
    from pathlib import Path

    homes = Path.home() / ".cache" / "clusterctl" / "agents"
    agents = len(list(homes.glob(f"*/{host.replace(':', '_')}/agent.json")))
    there = importlib.util.find_spec("worker") is not None and importlib.util.find_spec("worker.agent") is not None
    return {"time": time.time(), "agents": agents, "clusterctl": there}


if __name__ == "__main__":
    main()
