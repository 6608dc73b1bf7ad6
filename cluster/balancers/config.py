"""What a balancer process is told of the settings, and whether one that runs was told something else."""

from __future__ import annotations

from dataclasses import fields

from cluster.balancers.process import BalancerProcess
from cluster.deployment import cors_flags, limits
from cluster.deployment.plan import Plan
from config.paths import StateDir
from config.settings import Settings
from config.topology import BalancerConfig

_PART_FOR_BODIES = 16
_LEAST_FOR_BODIES = 256 * 1024 * 1024


def balancer_config(plan: Plan, state: StateDir) -> BalancerConfig:
    """What it is told of a setting goes by the name of that."""
    settings, known = plan.settings, [field.name for field in fields(BalancerConfig)]
    named = {name: getattr(settings, name) for name in known if name in Settings.model_fields}
    return BalancerConfig(**{
        **named, "listen_fd": -1, "grpc_fd": None if settings.grpc_port is None else -1,
        "state_dir": str(state.root), "processes": settings.lb_processes,
        "may_be_joined": settings.join_listen is not None,
        "max_buffered": settings.max_buffered or share_for_bodies(), "tls": settings.tls(),
        **({} if settings.response_cache else {"response_cache_size": None, "response_cache_ttl": None}),
        "move_streams": settings.move_streams or None,
        "cors": cors_flags.read(settings.engine_args, settings.cors_origin),
    })  # fmt: skip


def share_for_bodies() -> int:
    """Bytes for the bodies of requests where nobody has said how many: of the memory that this process may use, a part
    that leaves room for the copies that are made of a body on its way, and for the workers."""
    return max(_LEAST_FOR_BODIES, limits.memory() // _PART_FOR_BODIES)


def is_outdated(process: BalancerProcess, config: BalancerConfig) -> bool:
    """Whether an adopted ``process`` was started with other settings: its supervisor died between writing new ones down
    and replacing it."""
    return process.retiring is None and process.settings not in ("", config.digest())
