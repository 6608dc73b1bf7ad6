"""What the supervisor says of itself: the snapshot that status is made of. Pure: a function of what is known."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.deployment.plan import Plan
from cluster.fleet import rolling
from cluster.fleet.fleet import Fleet
from cluster.fleet.instance import Instance
from cluster.fleet.rolling import why_stopped
from cluster.fleet.states import RUNNING, WorkerState
from cluster.monitoring.external import ExternalBackend
from cluster.monitoring.hang_monitors import ProgressFinding
from worker.drivers.base import LOCAL
from worker.spec import LOOPBACK


@dataclass(frozen=True, slots=True)
class View:
    """What is known at one moment. ``now``: s, monotonic; ``wall``, ``started_at``: s since the epoch. ``sequence``:
    epoch, and number of the snapshot. ``unsaved``: why nothing can be saved. ``revertible``: there are settings to go
    back to. ``usage``: as of `cluster.monitoring.usage.UsageSampler.latest`. ``cards``: the models that a worker may
    be sent requests for; ``finding``: what is known of the progress of that worker or server; ``exempt``: whether it
    is left in rotation although it makes none. ``autoscale``: what autoscaling finds; None: it is off. ``models``: of a
    cluster that has several. ``zygotes``: as `cluster.supervisor.zygotes.Zygotes.describe` has it; ``jobs``: as
    `cluster.jobs.runner.JobRunner.describe`, None where there were none; ``discovery``: as
    `cluster.discovery.discovery.BackendDiscovery.describe`; ``nodes``: as
    `cluster.monitoring.nodes.NodeWatch.describe`, none where workers run on this machine."""

    now: float
    wall: float
    started_at: float
    sequence: tuple[int, int]
    state_dir: str
    unsaved: str | None
    revertible: bool
    plan: Plan
    fleet: Fleet
    external: Sequence[ExternalBackend]
    balancers: Mapping[str, Any]
    adapters: Mapping[str, float]
    adapter_states: Mapping[str, Any]
    recovery: Mapping[str, Any]
    usage: Mapping[str, Any]
    cards: Callable[[Instance], Sequence[Mapping[str, Any]]]
    finding: Callable[[str], ProgressFinding]
    exempt: Callable[[str], bool]
    autoscale: Mapping[str, Any] | None = None
    models: Sequence[Mapping[str, Any]] = ()
    zygotes: Mapping[str, Any] | None = None
    jobs: Mapping[str, Any] | None = None
    discovery: Sequence[Mapping[str, Any]] = ()
    nodes: Sequence[Mapping[str, Any]] = ()


def snapshot(view: View) -> dict[str, Any]:
    """What `GET /v1/cluster/status` shows, less what only the balancer can count."""
    fleet, plan, intent = view.fleet, view.plan, view.fleet.intent
    desired = 0 if intent.desired.shutting_down else sum(not w.asleep for w in intent.desired.instances.values())
    handles = [i.handle for i in fleet.instances.values()]
    return {
        "sequence": list(view.sequence),
        "supervisor": {
            "pid": os.getpid(),
            "state_dir": view.state_dir,
            "epoch": view.sequence[0],
            "started_at": round(view.started_at, 3),
            "shutting_down": intent.desired.shutting_down,
            "settled": settled(view),
            "unsaved": view.unsaved,
            "rolling": _rolling(view),
        },
        "load_balancer": view.balancers,
        "engine": plan.spec.engine,
        "model": plan.spec.served_names[0],
        "total_instances": desired,
        "min_instances": plan.least,
        "max_instances": plan.most,
        "wanted_strategy": intent.strategy,
        **({} if view.autoscale is None else {"autoscale": view.autoscale}),
        **({"models": view.models} if view.models else {}),
        **({} if view.zygotes is None else {"zygote": view.zygotes}),
        **({} if view.jobs is None else {"jobs": view.jobs}),
        **({"discovery": view.discovery} if view.discovery else {}),
        **({"nodes": view.nodes} if view.nodes else {}),
        "adapters": view.adapters,
        "adapter_states": view.adapter_states,
        "recovery": view.recovery,
        **view.usage,
        "workers_alive": sum(handle is not None for handle in handles),
        "instances": {
            **{i.id: _instance(view, i) for i in sorted(fleet.instances.values(), key=lambda i: (i.group, i.number))},
            **{b.id: _external(view, b) for b in view.external},
        },
    }


def settled(view: View) -> bool:
    """Nothing is on its way: every wanted worker of the wanted generation is ready or failed, no other is left, and
    the balancer is not being replaced."""
    fleet, intent = view.fleet, view.fleet.intent
    if view.balancers["replacing"]:
        return False
    wanted = {} if intent.desired.shutting_down else intent.desired.lasting
    if set(fleet.instances) != set(wanted) or any(not intent.cordons.over(name) for name in intent.cordons):
        return False
    return all(_at_rest(i, wanted[i.id].asleep) and i.generation >= wanted[i.id].generation
               for i in fleet.instances.values())  # fmt: skip


def _at_rest(instance: Instance, asleep: bool) -> bool:
    if asleep:
        return instance.state is WorkerState.ASLEEP or instance.state not in RUNNING
    return instance.state in (WorkerState.READY, WorkerState.FAILED)


def _rolling(view: View) -> dict[str, Any]:
    desired = view.fleet.intent.desired
    seen = rolling.progress(desired, view.fleet.observed())
    return {
        "active": seen.active, "done": seen.done, "total": seen.total, "spare": next(iter(desired.spares), None),
        "stopped": why_stopped(view.fleet, seen.stopped_by, view.revertible) if seen.stopped_by else "",
    }  # fmt: skip


def _instance(view: View, instance: Instance) -> dict[str, Any]:
    handle, where = instance.handle, instance.endpoint
    used = view.usage["processes"].get(instance.id, {}) if handle else {}
    now, intent, shown = view.now, view.fleet.intent, view.fleet.intent.shown(instance.id, str(instance.state))
    serving = instance.ready_at is not None and handle is not None
    return {
        "managed": True,
        "state": shown,
        "spare": instance.id in intent.desired.spares or instance.id in intent.desired.standbys,
        "is_running": shown == WorkerState.READY,
        "degraded": bool(instance.adapters.refused) and instance.state is WorkerState.READY,
        "reason": instance.reason or _refusals(instance),
        "phase": instance.phase or _without_progress(view, instance.id),
        "progress_s": _ago(view, instance.id),
        "stalls": instance.hangs,
        "host": where.host if where else LOOPBACK,
        "node": _node(view, where.host) if where and instance.driver != LOCAL else None,
        "port": where.port if where else None,
        "weight": intent.weights.get(instance.id, 1),
        "pid": handle.pid if handle else None,
        "gpus": list(instance.slot.gpus),
        "cores": [list(rank) for rank in instance.slot.cores],
        "incarnation": instance.incarnation,
        "restarts": max(0, instance.starts - 1),
        "restarts_by": dict(instance.restarted),
        "started_at": instance.started_at if handle else None,
        "start_seconds": instance.start_seconds,
        "uptime_s": round(view.wall - instance.started_at, 1) if handle and instance.started_at else 0.0,
        "ready_for_s": round(now - instance.ready_at, 1) if serving and instance.ready_at is not None else None,
        "state_for_s": round(now - instance.since, 1),
        "cpu_percent": used.get("cpu_percent", 0.0),
        "memory_mb": round(used.get("memory_bytes", 0) / 1e6, 1),
        **_engine(view.finding(instance.id) if serving else None),
        "models": [shown["id"] for shown in view.cards(instance)],
        "last_exit": instance.last_exit,
        "log": str(instance.spec.log) if instance.spec else None,
    }


def _node(view: View, host: str) -> str:
    return next((str(node["name"]) for node in view.nodes if node["host"] == host), host)


def _refusals(instance: Instance) -> str:
    return "; ".join(f"refused adapter {name}: {words}" for name, words in instance.adapters.reasons().items())


def _without_progress(view: View, name: str) -> str:
    """For how long it has made no progress although it has requests; empty for the others."""
    words = view.finding(name).without_progress
    return f"{words}, left in rotation" if words and view.exempt(name) else words


def _ago(view: View, name: str) -> float | None:
    """Seconds since it was last seen to make progress."""
    seen_at = view.finding(name).seen_at
    return None if seen_at is None else round(max(0.0, view.now - seen_at), 1)


def _engine(finding: ProgressFinding | None) -> dict[str, Any]:
    """What its engine last said of itself: tokens made since it was started, and the part of the KV cache in use."""
    said = None if finding is None else finding.reading
    cache = None if said is None or said.cache is None else round(said.cache * 100, 1)
    return {"tokens_total": None if said is None else said.tokens, "kv_cache_percent": cache}


def _external(view: View, backend: ExternalBackend) -> dict[str, Any]:
    spec = backend.spec
    shown = view.fleet.intent.cordons.shown(spec.id, spec.state)
    return {
        "managed": False,
        "state": shown,
        "spare": False,
        "is_running": shown == WorkerState.READY,
        "degraded": False,
        "reason": backend.reason,
        "phase": backend.coming or _without_progress(view, spec.id),
        "progress_s": _ago(view, spec.id),
        "stalls": backend.hangs,
        "host": spec.host,
        "port": spec.port,
        "url": spec.address,
        "origin": backend.origin,
        "weight": view.fleet.intent.weights.get(spec.id, 1),
        "pid": None,
        "gpus": [],
        "restarts": 0,
        "restarts_by": {},
        "uptime_s": None,
        "cpu_percent": None,
        "memory_mb": None,
        **_engine(view.finding(spec.id)),
        "models": [shown["id"] for shown in spec.models],
        "last_exit": None,
    }
