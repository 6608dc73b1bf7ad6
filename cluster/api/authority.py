"""Which change needs which scope. Pure.

The balancer says who asks (`config.identity.principal`). ``ADMIN`` is enough for what a change can be taken back by;
what runs code, names paths of this machine, opens the cluster to others or shows what clients send is the owner's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cluster.errors import Refused
from config.identity.principal import PRINCIPAL_HEADER, Principal, Scope, owner
from config.values.references import is_reference

#: Of whoever comes without a word of the balancer's: to the socket that only the cluster's user can open, or through a
#: balancer of before there were scopes, which lets none but the owner through.
UNNAMED = owner("socket")

#: Settings that are no danger in the hands of an administrator. All others, also those that are still to come, need the
#: owner.
ORDINARY = frozenset(
    {
        "instances", "strategy", "gpus", "instances_per_gpu", "tensor_parallel_size", "min_instances", "max_instances",
        "cpu_kv_gib", "drain_timeout", "rolling_spare", "queue_timeout", "max_queue", "max_queue_wait",
        "max_concurrent", "per_adapter_limit", "per_adapter", "startup_timeout", "stop_grace",
        "health_interval", "health_timeout", "health_failures", "restart_failures", "restart_delay", "stall_timeout",
        "canary_interval", "resume", "move_streams", "migration_limit", "lb_processes", "lb_standby", "log_format",
        "keep_versions", "routes", "aliases", "jobs_at_once", "autoscale", "autoscale_load", "autoscale_itl",
        "autoscale_ttft", "autoscale_up_after", "autoscale_down_after", "max_concurrent_models", "min_up", "swap_after",
    }
)  # fmt: skip


#: Under it a request remembers whose it is.
WHO = "who"


def who(headers: Mapping[str, str]) -> Principal:
    """Whose request those are the fields of."""
    line = headers.get(PRINCIPAL_HEADER)
    return UNNAMED if line is None else Principal.from_line(line)


def check(principal: Principal, scope: Scope) -> None:
    """Raises Refused (403)."""
    if not principal.may(scope):
        raise Refused(403, f"this needs the scope {scope}, which {principal.name or 'the caller'} has not got")


def check_settings(principal: Principal, changed: Sequence[str]) -> None:
    """``changed``: the settings that would not be as they were, however that was asked for. Raises Refused (403)."""
    if not principal.may(Scope.OWNER) and (guarded := [name for name in changed if name not in ORDINARY]):
        names = ", ".join(guarded)
        raise Refused(403, f"only the owner of the cluster changes {names}; nothing was changed", guarded[0])


def check_path(principal: Principal, path: str, places: Iterable[object]) -> None:
    """Of an adapter that is loaded from a path, or fetched; ``places``: the folders, or hosts, that the owner has set
    for it. Raises Refused (403)."""
    if not principal.may(Scope.OWNER) and not list(places):
        if is_reference(path):
            raise Refused(403, "without source_hosts only the owner of the cluster has adapters fetched", "lora_path")
        raise Refused(403, "without an adapter_root only the owner of the cluster names paths", "lora_path")
