"""What a balancer process is told of the settings, and whether one that runs was told something else."""

from __future__ import annotations

from cluster.balancer_process import BalancerProcess
from cluster.plan import Plan
from config.paths import StateDir
from config.topology import BalancerConfig


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
        first_byte_timeout=settings.first_byte_timeout, log_format=settings.log_format, access_log=settings.access_log,
        log_prompts=settings.log_prompts, otlp_endpoint=settings.otlp_endpoint,
        forward_headers=settings.forward_headers, protect_metrics=settings.protect_metrics,
    )


def is_outdated(process: BalancerProcess, config: BalancerConfig) -> bool:
    """Whether an adopted ``process`` was started with other settings: its supervisor died between writing new ones down
    and replacing it."""
    return process.retiring is None and process.settings not in ("", config.digest())
