"""``python -m worker.drivers.ray.broker ADDRESS NAME LEASE``: asks Ray for a supervisor, a line of JSON for each line.

``{"ask": "agents", "keep": {worker: place}, "used": [host]}`` is answered with ``{"agents": {host: port}, "gpus":
{host: [all, free]}}`` (both null: what is held is left as it is), ``{"ask": "place", "worker": ..., "need": ...,
"hosts": [...]}`` as `Holders.place` has it, ``{"ask": "end"}`` with ``{}`` once actors and groups are gone, and what
cannot be done with ``{"error": why}``, ``"refused": true`` where it never can. The key of the agents is in the
environment. It ends with its standard input.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from worker.drivers.nodes import WorkerNeed
from worker.drivers.ray import connection, exposure, room
from worker.drivers.ray.connection import first_line
from worker.drivers.ray.holders import Holders
from worker.drivers.ray.idle_agents import IdleAgents
from worker.drivers.ray.node_actor import NodeActor
from worker.drivers.remote import protocol

#: How long (s) the agents of all nodes together may take to answer or to start.
_AGENTS_S = 30.0


def main() -> None:
    address, name, lease = sys.argv[1], sys.argv[2], float(sys.argv[3])
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever Ray prints is no answer
    key = os.environ.pop(protocol.KEY)
    try:
        nodes = RayNodes(address, name, key, lease)
    except exposure.Exposed as error:
        _say(answers, {"error": str(error), "refused": True})
        return
    except connection.NoRay as error:
        _say(answers, {"error": str(error)})
        return
    for line in sys.stdin:
        try:
            _say(answers, nodes.answer(json.loads(line)))
        except Exception as error:
            _say(answers, {"error": first_line(error)})
            return  # the next one connects anew


class RayNodes:
    """Connected to the Ray at ``address``. Raises NoRay and Exposed."""

    def __init__(self, address: str, name: str, key: str, lease: float) -> None:
        self._name, self._key, self._lease = name, key, lease
        self._ray = connection.connect(address, f"clusterctl-{name}")
        self._own = self._ray.get_runtime_context().get_node_id()
        self._holders = Holders(self._ray, name)
        self._idle = IdleAgents()

    def answer(self, message: Mapping[str, Any]) -> dict[str, Any]:
        match message["ask"]:
            case "agents":
                if message["keep"] is not None:
                    self._holders.keep(message["keep"])
                return {"agents": self.agents(message["used"]), "gpus": self.gpus()}
            case "place":
                need = WorkerNeed(**message["need"])
                return self._holders.place(message["worker"], need, message["hosts"])
            case _:
                return self.end()

    def gpus(self) -> dict[str, tuple[float, float]]:
        """Of each host: all, and those that nobody holds."""
        return {
            node["host"]: (node["total"].get(room.GPU, 0.0), node["free"].get(room.GPU, 0.0))
            for node in self._holders.nodes()
        }

    def agents(self, used: Collection[str] | None) -> dict[str, int]:
        """The port of the agent of each node that answers. On those that no worker has ``used`` no actor is left: an
        autoscaler of Ray's takes away none that has one. Raises NoRay."""
        hosts = {node["NodeManagerAddress"]: node["NodeID"] for node in self._ray.nodes() if node["Alive"]}
        if self._own not in hosts.values():  # Ray goes on answering, and starts nothing for us any more
            raise connection.NoRay("the raylet of this machine has ended")
        known = self._idle.listening(hosts, used)
        actors = {host: self._actor(host, node) for host, node in hosts.items() if host not in known}
        asked = {
            actor.port.remote(self._name, host, self._key, self._lease): host for host, actor in actors.items()
        }
        done, _ = self._ray.wait(list(asked), num_returns=len(asked), timeout=_AGENTS_S) if asked else ([], [])
        found = dict(self._ports({one: asked[one] for one in done}))
        for host, port in found.items():
            if used is not None and host not in used:
                self._idle.note(host, hosts[host], port)
                self._ray.kill(actors[host])
        return {**known, **found}

    def _ports(self, done: dict[Any, str]) -> Iterator[tuple[str, int]]:
        for one, host in done.items():
            try:
                yield host, self._ray.get(one)
            except Exception as error:  # that actor or its node has just died; it is asked for again
                print(f"{host}: {first_line(error)}", file=sys.stderr)

    def _actor(self, host: str, node: str) -> Any:
        """The one on ``node``: there may be one of an earlier supervisor."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        return self._ray.remote(NodeActor).options(
            name=f"agent-{host}-{node[:12]}", get_if_exists=True, lifetime="detached", num_cpus=0, max_restarts=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        ).remote()  # fmt: skip

    def end(self) -> dict[str, Any]:
        """No actor and no placement group of the cluster is left."""
        from ray.util import list_named_actors

        for name in list_named_actors():
            self._ray.kill(self._ray.get_actor(name))
        self._holders.end()
        return {}


def _say(answers: Any, message: dict[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
