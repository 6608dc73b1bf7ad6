"""``python -m worker.drivers.ray.survey ADDRESS``: what ``clusterctl doctor`` asks of a Ray, as a line of JSON.

``{"error": why}``, or ``{"version": ..., "clusterctl": ..., "address": ..., "nodes": [{"host", "gpus", "free",
"said"}]}``; ``said`` is what an actor on that node answered (`Visitor`), or ``{"error": why}``, and why it cannot be
reached from here (``unreachable``). Changes nothing there."""

from __future__ import annotations

import json
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from worker.drivers.ray import room
from worker.drivers.ray.connection import connect, first_line

#: How long (s) all nodes together may take to start an actor and answer.
_ANSWER_S = 30.0

#: How long (s) a connection to a node may take, and an agent there to answer.
_REACH_S = 3.0


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever Ray prints is no answer
    try:
        found = survey(sys.argv[1])
    except Exception as error:  # Ray raises whatever it likes
        found = {"error": first_line(error)}
    answers.write(json.dumps(found) + "\n")


def survey(address: str) -> dict[str, Any]:
    ray = connect(address, "clusterctl-doctor")
    from ray._private.state import available_resources_per_node

    head = ray.get_runtime_context().gcs_address
    nodes = {node["NodeID"]: node for node in ray.nodes() if node["Alive"]}
    free, said = available_resources_per_node(), _ask(ray, nodes)
    return {"version": ray.__version__, "clusterctl": _version(), "address": head, "nodes": [
        {"host": node["NodeManagerAddress"], "gpus": node["Resources"].get(room.GPU, 0.0),
         "free": free.get(name, {}).get(room.GPU, 0.0), "said": said[name]}
        for name, node in nodes.items()
    ]}  # fmt: skip


def _ask(ray: Any, nodes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    # Actors: what listens there has to be there until it was tried. They end with this process.
    kind, began = ray.remote(Visitor), time.time()
    there = {
        name: kind.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(name, soft=False)).remote()
        for name in nodes
    }
    asked = {name: one.look_around.remote(nodes[name]["NodeManagerAddress"]) for name, one in there.items()}
    done, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=_ANSWER_S)
    said = {name: _answer(ray, one, began) if one in done else {"error": f"no answer within {_ANSWER_S:g} s"}
            for name, one in asked.items()}  # fmt: skip
    with ThreadPoolExecutor(32) as pool:
        tried = pool.map(_unreachable, (said[name].pop("port", None) for name in nodes),
                         (node["NodeManagerAddress"] for node in nodes.values()))  # fmt: skip
        for name, why in zip(nodes, tried, strict=True):
            said[name]["unreachable"] = why
    return said


def _unreachable(port: int | None, host: str) -> str:
    """Why nobody is reached at a port on which the node listens; empty where somebody is, or where it does not."""
    if port is None:
        return ""
    try:
        socket.create_connection((host, port), _REACH_S).close()
    except OSError as error:
        return f"{host}:{port}: {error.strerror or error}"
    return ""


def _answer(ray: Any, one: Any, began: float) -> dict[str, Any]:
    try:
        found = dict(ray.get(one))
    except Exception as error:  # Ray raises whatever it likes
        return {"error": first_line(error)}
    now, there = time.time(), found.pop("time")
    # It was answered at some time between: only what lies outside of that is another clock.
    return {**found, "skew_s": round(max(0.0, began - there, there - now), 1)}


class Visitor:
    """An actor on a node, which imports nothing of ours before it knows that it can."""

    def look_around(self, host: str) -> dict[str, Any]:
        """``port``: one at ``host`` that it listens on from now on; ``clusterctl``: the version there, empty where it
        cannot be imported; ``agents``: what each that runs there says of itself, or ``error``. Of agents no key leaves
        the node. Raises OSError where ``host`` is no address of that node."""
        import importlib.util
        import time

        self._door = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        found = {"time": time.time(), "port": self._door.getsockname()[1], "clusterctl": "", "agents": []}
        if importlib.util.find_spec("worker") is None or importlib.util.find_spec("worker.agent") is None:
            return found
        found["clusterctl"] = _version()
        homes = Path.home() / ".cache" / "clusterctl" / "agents"
        for home in sorted(homes.glob(f"*/{host.replace(':', '_')}")):
            if (said := _agent(home)) is not None:
                found["agents"].append({"cluster": home.parent.name, **said})
        return found


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("clusterctl")
    except metadata.PackageNotFoundError:
        return "unknown"


def _agent(home: Path) -> dict[str, Any] | None:
    """What it says; None where none runs."""
    import json
    import urllib.request

    from worker.drivers.remote import agent_home, protocol

    if (agent := agent_home.running(home)) is None:
        return None
    asked = urllib.request.Request(agent.url + protocol.ABOUT, headers={"Authorization": f"Bearer {agent.key}"})
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked, timeout=_REACH_S) as answer:
            said: dict[str, Any] = json.loads(answer.read(65536))
            return said
    except (OSError, ValueError) as error:
        return {"error": str(error)[:200]}


if __name__ == "__main__":
    main()
