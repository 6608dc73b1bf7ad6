"""Balancers of another machine's cluster, run here: detached, looked at, ended."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from cluster.cli.lifecycle import detach
from cluster.cli.lifecycle.down import bring_down
from cluster.cli.lifecycle.failed import hopeless
from cluster.cli.render import say, say_json
from cluster.client import ClusterClient
from cluster.joining.agent import LOG
from cluster.joining.options import JoinOptions
from cluster.joining.runtime import balancers, joined
from cluster.storage import lock
from config.errors import UsageError
from config.paths import StateDir
from config.values.addresses import bracketed

_LOOK_EVERY = 0.05

#: How long (s) it may take until a balancer serves: the supervisor has to be reached, and a balancer to be started.
_START_S = 60.0


def start(options: JoinOptions) -> int:
    """0 once balancers serve here; 1 with the reason if none does in time, and nothing is left running. Raises
    UsageError before anything starts."""
    options.check()
    state = options.state
    detached = detach.launch(state, "cluster.joining.runtime", json.dumps(options.to_json()), LOG)
    deadline = time.monotonic() + _START_S
    with ClusterClient(state_dir=state.root, timeout=5.0) as agent:
        while not detached.has_ended():
            snapshot = detach.snapshot_of(agent)
            if snapshot is not None and snapshot["serving"]:
                say(f"{options.url}: serves the cluster of {_supervisor(options)} as {snapshot['name']}; "
                    f"log in {state.log(LOG)}, state in {state.root}")  # fmt: skip
                return 0
            why = "" if snapshot is None else hopeless(snapshot)
            if not why and time.monotonic() > deadline:
                why = f"no balancer served within {_START_S:g} s"
            if why:
                detached.show()
                return detach.give_up(state, detached.process, snapshot, why)
            time.sleep(_LOOK_EVERY)
    return 1


def status(state: StateDir, as_json: bool) -> int:
    """0 where balancers serve under a process that keeps them, 1 where that is gone, or none serves. Raises UsageError
    where none have joined from here."""
    options = joined(state)
    if options is None:
        raise _none_joined(state)
    with ClusterClient(state_dir=state.root, timeout=5.0) as agent:
        snapshot = detach.snapshot_of(agent)
    found = _described(options, snapshot)
    if as_json:
        say_json(found)
    else:
        _show(found)
    return 0 if found["pid"] is not None and found["balancers"] else 1


def down(state: StateDir, now: bool, no_wait: bool) -> int:
    """Raises UsageError where what runs is something else, or nothing is known of any."""
    if not state.joined.exists() and (state.database.exists() or lock.held(state)):
        raise _none_joined(state)
    return bring_down(state, now=now, no_wait=no_wait)


def _none_joined(state: StateDir) -> UsageError:
    return UsageError(
        f"no balancers on {state.root} have joined a cluster: another directory is named with --state-dir, and what "
        "`clusterctl up` started ends with `clusterctl down`"
    )


def _described(options: JoinOptions, snapshot: Mapping[str, Any] | None) -> dict[str, Any]:
    seen = snapshot or {"name": None, "connected": False, "serving": balancers(options.state), "load_balancer": {}}
    state, processes = options.state, seen["load_balancer"].get("processes", ())
    return {
        "name": seen["name"] or options.name, "supervisor": _supervisor(options), "connected": seen["connected"],
        "url": options.url, "grpc_port": options.grpc_port, "pid": lock.pid(state) if lock.held(state) else None,
        "balancers": seen["serving"], "in_flight": sum(each["in_flight"] for each in processes),
        "log": str(state.log(LOG)), "state_dir": str(state.root),
    }  # fmt: skip


def _show(found: Mapping[str, Any]) -> None:
    if found["pid"] is None:
        how = "its process is gone, start it again or run `clusterctl balancer down`"
    elif found["connected"]:
        how = f"connected to {found['supervisor']} by pid {found['pid']}"
    else:
        how = f"cannot reach {found['supervisor']}, tried again by pid {found['pid']}"
    say(f"{found['name']}: {how}")
    pids = ", ".join(map(str, found["balancers"])) or "none"
    spoken = f", gRPC on {found['grpc_port']}" if found["grpc_port"] is not None else ""
    say(f"{found['url']}{spoken}: balancers {pids}, {found['in_flight']} requests in flight")
    say(f"log in {found['log']}, state in {found['state_dir']}")


def _supervisor(options: JoinOptions) -> str:
    host, port = options.supervisor
    return f"https://{bracketed(host)}:{port}"
