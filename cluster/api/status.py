"""What the supervisor says of itself: the backend set for the balancer, and the snapshot that status is made of."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cluster.adapters.registry import Registry, card
from cluster.fleet import rolling
from cluster.fleet.instance import Instance
from cluster.fleet.states import WorkerState
from cluster.monitoring.external import ExternalBackend
from config.topology import BackendSet, BackendSpec
from worker.drivers.base import Handle
from worker.spec import LOOPBACK

if TYPE_CHECKING:
    from cluster.supervisor.loop import Supervisor


def backend_set(supervisor: Supervisor) -> BackendSet:
    """All upstreams as of now, under the supervisor's current revision."""
    fleet = supervisor.fleet
    managed = [_backend(supervisor, i) for i in fleet.instances.values() if i.spec]
    base = supervisor.plan.spec.served_names[0]
    registered = supervisor.rollouts.registry.adapters.values()
    external = [
        replace(
            a.spec, state=fleet.cordons.shown(a.id, a.spec.state), weight=fleet.weights.get(a.id, 1),
            models=_attached_cards(supervisor, a),
        )
        for a in supervisor.external
    ]
    return BackendSet(
        epoch=supervisor.epoch, revision=supervisor.version[1], strategy=supervisor.strategy,
        backends=(*managed, *external), shutting_down=fleet.desired.shutting_down,
        registered=tuple(card(adapter, base, adapter.current.path) for adapter in registered),
    )


def _backend(supervisor: Supervisor, instance: Instance) -> BackendSpec:
    spec, where = instance.spec, instance.endpoint
    assert spec is not None and where is not None
    weight = supervisor.fleet.weights.get(instance.id, 1)
    expected = (*supervisor.plan.spec.served_names, *supervisor.rollouts.wanted(instance.id))
    state = supervisor.fleet.cordons.shown(instance.id, str(instance.state))
    return BackendSpec(
        id=instance.id, incarnation=instance.incarnation, state=state, scheme=where.scheme,
        host=where.host, ip=where.host, port=where.port, weight=weight, api_key=spec.api_key,
        models=_cards(supervisor, instance), expected=expected, capabilities=supervisor.plan.engine.capabilities,
    )


def _cards(supervisor: Supervisor, instance: Instance) -> tuple[dict[str, Any], ...]:
    """The models it may be sent requests for: its base models, and the registry's adapters that it holds now."""
    foreign, registry = supervisor.plan.foreign_adapters, supervisor.rollouts.registry
    own = tuple(c for c in instance.models if not c.get("parent") or c["id"] in foreign)
    if not own:
        return ()
    held = instance.agent.loaded if instance.agent else instance.held
    return (*own, *_held_cards(registry, own[0]["id"], held, instance.withheld))


def _held_cards(registry: Registry, base: str, held: Mapping[str, str], withheld: set[str]) -> list[dict[str, Any]]:
    return [
        card(adapter, base, held[name])
        for name, adapter in registry.adapters.items()
        if name in held and name not in withheld
    ]


def _attached_cards(supervisor: Supervisor, external: ExternalBackend) -> tuple[dict[str, Any], ...]:
    """What it says it serves; where its adapters are ours to manage, as for our own workers."""
    if external.agent is None:
        return external.spec.models
    own = tuple(c for c in external.spec.models if not c.get("parent"))
    if not own:
        return ()
    registry = supervisor.rollouts.registry
    return (*own, *_held_cards(registry, own[0]["id"], external.agent.loaded, external.withheld))


def snapshot(supervisor: Supervisor) -> dict[str, Any]:
    """What `GET /v1/cluster/status` shows, less what only the balancer can count."""
    fleet, plan = supervisor.fleet, supervisor.plan
    desired = 0 if fleet.desired.shutting_down else len(fleet.desired.instances)
    handles = [i.handle for i in fleet.instances.values()]
    return {
        "sequence": [supervisor.epoch, supervisor.sequence],
        "supervisor": {
            "pid": os.getpid(),
            "state_dir": str(supervisor.state.root),
            "epoch": supervisor.epoch,
            "started_at": round(supervisor.started_at, 3),
            "shutting_down": fleet.desired.shutting_down,
            "settled": settled(supervisor),
            "unsaved": supervisor.write_behind.unsaved,
            "rolling": _rolling(supervisor),
        },
        "load_balancer": supervisor.balancer.describe(),
        "engine": plan.spec.engine,
        "model": plan.spec.served_names[0],
        "total_instances": desired,
        "min_instances": plan.least,
        "max_instances": plan.most,
        "adapters": supervisor.rollouts.totals(),
        "adapter_states": supervisor.rollouts.states(),
        "recovery": supervisor.recovery.to_json(),
        **supervisor.usage.latest,
        "workers_alive": sum(handle is not None for handle in handles),
        "instances": {
            **{i.id: _instance(supervisor, i) for i in sorted(fleet.instances.values(), key=lambda i: i.number)},
            **{a.spec.id: _attached(supervisor, a) for a in supervisor.external},
        },
    }


def settled(supervisor: Supervisor) -> bool:
    """Nothing is on its way: every wanted worker of the wanted generation is ready or failed, no other is left, and
    the balancer is not being replaced."""
    fleet = supervisor.fleet
    if supervisor.balancer.replacing:
        return False
    wanted = {} if fleet.desired.shutting_down else fleet.desired.instances
    if set(fleet.instances) != set(wanted) or any(not fleet.cordons.over(name) for name in fleet.cordons):
        return False
    return all(
        i.state in (WorkerState.READY, WorkerState.FAILED) and i.generation >= wanted[i.id].generation
        for i in fleet.instances.values()
    )


def _rolling(supervisor: Supervisor) -> dict[str, Any]:
    desired = supervisor.fleet.desired
    seen = rolling.progress(desired, supervisor.fleet.observed())
    return {
        "active": seen.active, "done": seen.done, "total": seen.total, "spare": next(iter(desired.spares), None),
        "stopped": stopped(supervisor, seen.stopped_by) if seen.stopped_by else "",
    }  # fmt: skip


def stopped(supervisor: Supervisor, name: str) -> str:
    """Why a rolling restart does not go on, and what can be done: ``name`` does not come back, or not as it was."""
    instance, desired = supervisor.fleet.instances[name], supervisor.fleet.desired
    spare, lacking = name in desired.spares, supervisor.fleet.lacking(instance)
    if lacking:
        adapters = f"adapter{'s' * (len(lacking) > 1)} {_some(lacking)}"
        who, reason = f"{'the spare ' * spare}{name} cannot hold {adapters}", instance.refused[lacking[0]]
    else:
        who, reason = f"the spare {name} does not get ready" if spare else f"{name} does not come back", instance.reason
    others = sum(i.state is WorkerState.READY for i in supervisor.fleet.instances.values())
    back = "`clusterctl apply --previous` goes back to the settings before" if supervisor.revisions.before else ""
    again = "`clusterctl restart --rolling` tries again" if spare else f"`clusterctl restart {name}` tries again"
    return (
        f"the rolling restart stops: {who} ({reason}); {others} serve on; {again}"
        f"{', ' if back else ''}{back}"
    )


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _instance(supervisor: Supervisor, instance: Instance) -> dict[str, Any]:
    handle: Handle | None = instance.handle
    where = instance.endpoint
    now, shown = supervisor.now(), supervisor.fleet.cordons.shown(instance.id, str(instance.state))
    serving = instance.ready_at is not None and handle is not None
    return {
        "managed": True,
        "state": shown,
        "spare": instance.id in supervisor.fleet.desired.spares,
        "is_running": shown == WorkerState.READY,
        "degraded": bool(instance.refused) and instance.state is WorkerState.READY,
        "reason": instance.reason or _refusals(instance),
        "phase": instance.phase or _standing(supervisor, instance),
        "progress_s": _ago(supervisor, instance),
        "stalls": instance.stalls,
        "host": where.host if where else LOOPBACK,
        "port": where.port if where else None,
        "weight": supervisor.fleet.weights.get(instance.id, 1),
        "pid": handle.pid if handle else None,
        "gpus": list(instance.slot.gpus),
        "cores": [list(rank) for rank in instance.slot.cores],
        "incarnation": instance.incarnation,
        "restarts": max(0, instance.starts - 1),
        "restarts_by": dict(instance.restarted),
        "started_at": instance.started_at if handle else None,
        "start_seconds": instance.start_seconds,
        "uptime_s": round(supervisor.wall() - instance.started_at, 1) if handle and instance.started_at else 0.0,
        "ready_for_s": round(now - instance.ready_at, 1) if serving and instance.ready_at is not None else None,
        "state_for_s": round(now - instance.since, 1),
        "cpu_percent": instance.cpu_percent if handle else 0.0,
        "memory_mb": instance.memory_mb if handle else 0.0,
        **_engine(instance if serving else None),
        "models": [shown["id"] for shown in _cards(supervisor, instance)],
        "last_exit": instance.last_exit,
        "log": str(instance.spec.log) if instance.spec else None,
    }


def _refusals(instance: Instance) -> str:
    return "; ".join(f"refused adapter {name}: {words}" for name, words in instance.refused.items())


def _standing(supervisor: Supervisor, member: Instance | ExternalBackend) -> str:
    """For how long its tokens stand still although it has requests; empty for the others."""
    spared = member.standing and supervisor.stalls.spared(member.id)
    return f"{member.standing}, left in rotation" if spared else member.standing


def _ago(supervisor: Supervisor, member: Instance | ExternalBackend) -> float | None:
    """Seconds since it was last seen to make progress."""
    return None if member.progress_at is None else round(max(0.0, supervisor.now() - member.progress_at), 1)


def _engine(member: Instance | ExternalBackend | None) -> dict[str, Any]:
    """What its engine last said of itself: tokens made since it was started, and the part of the KV cache in use."""
    said = member.progress.reading if member is not None and member.progress is not None else None
    cache = None if said is None or said.cache is None else round(said.cache * 100, 1)
    return {"tokens_total": None if said is None else said.tokens, "kv_cache_percent": cache}


def _attached(supervisor: Supervisor, external: ExternalBackend) -> dict[str, Any]:
    spec = external.spec
    shown = supervisor.fleet.cordons.shown(spec.id, spec.state)
    return {
        "managed": False,
        "state": shown,
        "spare": False,
        "is_running": shown == WorkerState.READY,
        "degraded": False,
        "reason": external.reason,
        "phase": external.coming or _standing(supervisor, external),
        "progress_s": _ago(supervisor, external),
        "stalls": external.stalls,
        "host": spec.host,
        "port": spec.port,
        "url": spec.address,
        "weight": supervisor.fleet.weights.get(spec.id, 1),
        "pid": None,
        "gpus": [],
        "restarts": 0,
        "restarts_by": {},
        "uptime_s": None,
        "cpu_percent": None,
        "memory_mb": None,
        **_engine(external),
        "models": [shown["id"] for shown in spec.models],
        "last_exit": None,
    }
