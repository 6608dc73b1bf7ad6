"""What a balancer process is told of the settings, and whether one that runs was told something else."""

from __future__ import annotations

import json

from cluster.balancer_process import BalancerProcess
from cluster.plan import Plan
from config.paths import StateDir
from config.topology import BalancerConfig

#: Of one process, and of one start of it.
_ITS_OWN = frozenset({"link", "listen_fd"})


def balancer_config(plan: Plan, state: StateDir) -> BalancerConfig:
    settings = plan.settings
    return BalancerConfig(
        listen_fd=-1, state_dir=str(state.root), host=settings.host, port=settings.port,
        queue_timeout=settings.queue_timeout, admin_key=settings.admin_key, log_level=settings.log_level,
        processes=settings.lb_processes, max_body=settings.max_body, allowed_hosts=settings.allowed_hosts,
        trusted_proxies=settings.trusted_proxies, extra_routes=settings.extra_routes,
        max_connections=settings.max_connections, head_timeout=settings.head_timeout,
        body_timeout=settings.body_timeout, stream_buffer=settings.stream_buffer,
        resume=settings.resume, migration_limit=settings.migration_limit, stall_timeout=settings.stall_timeout,
    )


def is_outdated(process: BalancerProcess, config: BalancerConfig, state: StateDir) -> bool:
    """Whether an adopted ``process`` was started with other settings: its supervisor died between writing new ones down
    and replacing it. What it was started with lies beside the state."""
    if process.handle is None:
        return False
    try:
        told = json.loads((state.root / f"{process.name}.json").read_text())
    except (OSError, ValueError):
        return False
    now = json.loads(json.dumps(config.to_json()))
    return any(told[name] != value for name, value in now.items() if name in told and name not in _ITS_OWN)
