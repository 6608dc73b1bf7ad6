"""Asks a Ray how it is, where ``--driver ray`` is wanted, and judges what it says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from typing import Any

from cluster.tools.doctor.facts import MachineFacts
from cluster.tools.doctor.finding import Finding, ok, problem, warning
from config.settings import Settings
from worker.drivers.base import RAY
from worker.drivers.ray import exposure
from worker.drivers.remote.node import LOST_S

#: How long (s) connecting to Ray and asking its nodes may take.
_SURVEY_S = 90.0

#: Clocks of nodes may differ by so much (s): logs and figures of several are read side by side.
_SKEW_S = 2.0


def look(settings: Settings | None) -> Mapping[str, Any] | None:
    """What `worker.drivers.ray.survey` says; None where no Ray is wanted. Never raises."""
    if settings is None or settings.driver != RAY:
        return None
    if find_spec("ray") is None:
        return {"missing": True}
    env = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", exposure.ALLOWED: "1" if settings.ray_insecure else ""}
    argv = [sys.executable, "-m", "worker.drivers.ray.survey", settings.ray_address]
    try:
        done = subprocess.run(argv, env=env, capture_output=True, timeout=_SURVEY_S, check=False)
        found = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"error": f"it did not answer within {_SURVEY_S:g} s"}
    except (OSError, ValueError) as error:
        return {"error": f"it could not be asked: {error}"}
    return found if isinstance(found, dict) else {"error": "it could not be asked"}


def findings(facts: MachineFacts) -> Iterator[Finding]:
    if facts.ray is None or facts.settings is None:
        return
    address = facts.settings.ray_address
    if facts.ray.get("missing"):
        yield problem("ray", "Ray is not installed", "pip install 'clusterctl[ray]', the same version on all machines")
        return
    if "error" in facts.ray:
        yield problem("ray", f"{address}: {facts.ray['error']}",
                      "`ray start --head` on one machine and `ray start --address=HEAD:6379` on the others, with the "
                      "version of Ray and of Python that is here; --ray-address names the head, RAY_AUTH_MODE=token "
                      "and its token are needed here too (docs/scale-out.md)")  # fmt: skip
        return
    nodes = facts.ray["nodes"]
    yield ok("ray", f"Ray {facts.ray['version']} at {facts.ray['address']}, {len(nodes)} node{'s' * (len(nodes) != 1)}")
    for node in nodes:
        yield _node(node, facts.ray["clusterctl"])
        yield from _agents(node)
    yield from _room(facts, nodes)


def _node(node: Mapping[str, Any], version: str) -> Finding:
    said, check = node["said"], f"node {node['host']}"
    gpus = f"{node['free']:g} of {node['gpus']:g} GPUs free" if node["gpus"] else "no GPU that Ray knows of"
    if "error" in said:
        return problem(check, f"nothing can be started there: {said['error']}", "see the logs of its raylet")
    if not said["clusterctl"]:
        remedy = "install it there, the same version, in the Python that runs `ray start`"
        return problem(check, "clusterctl cannot be imported there", remedy)
    if said["unreachable"]:
        remedy = "agents and workers listen there, on any port that is free: let this machine reach all from 1024 on"
        return problem(check, f"it answers Ray, but from here it cannot be reached at {said['unreachable']}", remedy)
    if said["clusterctl"] != version:
        remedy = "install the same version on all machines, then restart the cluster: agents keep what they began with"
        return problem(check, f"clusterctl {said['clusterctl']} is installed there, and {version} here", remedy)
    if said["skew_s"] > _SKEW_S:
        return warning(check, f"its clock is {said['skew_s']:g} s off ours", "have a time service keep both (chrony)")
    agents = len(said["agents"])
    return ok(check, f"{gpus}, {agents} agent{'s' * (agents != 1)}, reachable, its clock is ours")


def _agents(node: Mapping[str, Any]) -> Iterator[Finding]:
    """Of whatever clusters: those that are not as they should be."""
    for agent in node["said"].get("agents", ()):
        check = f"agent {agent['cluster']} at {node['host']}"
        if "error" in agent:
            yield warning(check, f"it runs and does not answer: {agent['error']}",
                          f"see agent.log in ~/.cache/clusterctl/agents/{agent['cluster']} there")  # fmt: skip
        elif agent["silent_s"] > LOST_S:
            workers, left = agent["workers"], max(0.0, agent["left_s"])
            ends = f"{workers} worker{'s' * (workers != 1)} of it will end in {left:g} s"
            yield warning(
                check, f"no supervisor has asked it for {agent['silent_s']:g} s: {ends}",
                "`clusterctl up` on the state directory of its cluster takes it over, `clusterctl down` ends it",
            )


def _room(facts: MachineFacts, nodes: list[Mapping[str, Any]]) -> Iterator[Finding]:
    """Whether what each worker needs is anywhere at all."""
    need = facts.plan.need if facts.plan is not None else None
    if need is None or not need.gpus:
        return
    most = max((node["gpus"] for node in nodes), default=0.0)
    if need.gpus > most:
        remedy = "`ray start --num-gpus N` where Ray does not see them; or a smaller --tensor-parallel-size"
        text = f"a worker needs {need.gpus:g} GPUs on one node, and the most that one has are {most:g}"
        yield problem("gpus", text, remedy)
