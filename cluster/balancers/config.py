"""What a balancer process is told of the settings, and whether one that runs was told something else."""

from __future__ import annotations

from cluster.balancers.process import BalancerProcess
from cluster.deployment import cors_flags, limits
from cluster.deployment.plan import Plan
from config.paths import StateDir
from config.topology import BalancerConfig

_PART_FOR_BODIES = 16
_LEAST_FOR_BODIES = 256 * 1024 * 1024


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
        max_buffered=settings.max_buffered or share_for_bodies(), send_timeout=settings.send_timeout,
        min_client_rate=settings.min_client_rate, max_client_connections=settings.max_client_connections,
        max_client_uploads=settings.max_client_uploads, max_concurrent=settings.max_concurrent,
        per_adapter_limit=settings.per_adapter_limit, per_adapter=settings.per_adapter, max_queue=settings.max_queue,
        max_queue_wait=settings.max_queue_wait, cors=cors_flags.read(settings.engine_args), tls=settings.tls(),
    )


def share_for_bodies() -> int:
    """Bytes for the bodies of requests where nobody has said how many: of the memory that this process may use, a part
    that leaves room for the copies that are made of a body on its way, and for the workers."""
    return max(_LEAST_FOR_BODIES, limits.memory() // _PART_FOR_BODIES)


def is_outdated(process: BalancerProcess, config: BalancerConfig) -> bool:
    """Whether an adopted ``process`` was started with other settings: its supervisor died between writing new ones down
    and replacing it."""
    return process.retiring is None and process.settings not in ("", config.digest())
