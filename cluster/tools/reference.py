"""`docs/configuration.md`, made from the settings themselves. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

from pydantic.fields import FieldInfo

from config.settings import Settings, effect_of

#: Headings, each with its settings in the order of reading. A setting that is in none goes to the end.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "What runs": (
        "instances", "inference_mode", "engine", "model", "model_base_path", "served_names", "manifest", "profile",
        "engine_args", "min_instances", "max_instances",
    ),
    "Several models": ("models", "max_concurrent_models", "min_up", "swap_after"),
    "As many workers as the load needs": (
        "autoscale", "autoscale_load", "autoscale_itl", "autoscale_ttft", "autoscale_up_after", "autoscale_down_after",
    ),
    "Adapters": ("lora", "lora_config", "keep_versions", "allow_no_effect", "adapter_root", "manage_backend_adapters"),
    "What is fetched": ("source_hosts", "source_private"),
    "Which model answers": ("routes", "aliases"),
    "GPUs and memory": (
        "gpus", "instances_per_gpu", "tensor_parallel_size", "max_gpu_memory", "cpu_kv_gib", "max_cpu_threads",
    ),
    "The address": (
        "host", "port", "grpc_port", "join_listen", "worker_host",
        "tls_cert", "tls_key", "tls_client_ca", "cors_origin", "admin_key",
        "protect_metrics", "allowed_hosts", "trusted_proxies", "extra_routes", "forward_headers",
    ),
    "Workers on other machines": (
        "driver", "ray_address", "ray_insecure", "ray_resources", "ray_labels",
        "kubernetes_workers", "kubernetes_scale", "agent_key_file",
        "leave_workers", "node_lease", "node_adapters_gib",
    ),
    "Balancing": ("strategy", "lb_processes", "lb_standby", "backend", "backend_discovery", "backend_key_file"),
    "The queue": (
        "queue_timeout", "max_queue", "max_queue_wait", "max_concurrent", "per_adapter_limit", "per_adapter",
    ),
    "Answers that are given again": ("response_cache", "response_cache_size", "response_cache_ttl"),
    "What one request may ask for": (
        "cap_n", "cap_best_of", "cap_tokens", "cap_prompts", "cap_logprobs", "cap_depth", "allow_chat_template",
        "allow_chat_template_kwargs",
    ),
    "Keys": ("api_keys", "anonymous_models", "insecure", "limits_store"),
    "Streams that go on": ("resume", "move_streams", "migration_limit", "stall_timeout", "first_byte_timeout"),
    "Health and restarts": (
        "health_interval", "health_timeout", "health_failures", "restart_failures", "restart_delay", "startup_timeout",
        "canary_interval", "spares", "zygote",
    ),
    "Jobs": ("jobs_at_once",),
    "Planned changes": ("drain_timeout", "stop_grace", "rolling_spare"),
    "Limits at the edge": (
        "max_body", "max_buffered", "max_connections", "max_client_connections", "max_client_uploads", "head_timeout",
        "body_timeout", "send_timeout", "min_client_rate", "stream_buffer",
    ),
}  # fmt: skip

_HEAD = """# Configuration

Made from the settings by `clusterctl config reference`; a test holds it to them.

Highest first: flags of `clusterctl up` (and `apply`), the environment, a file of variables (`--env-file FILE`,
`CLUSTERCTL_ENV_FILE` or `env_file` in the YAML file), the YAML file (`--config FILE` or `CLUSTERCTL_CONFIG`), the
default. Times are seconds. Lists are separated by commas in the environment and in flags that are not repeatable, and
are lists in YAML. An empty variable is an unset one. A relative path begins in the working directory of who calls
`clusterctl`, in the YAML file in that file's folder. `clusterctl config show` (with the flags of `up`) prints what
holds here and where each value comes from; `clusterctl config validate FILE` checks a file. *Changed* is what a change
does to a running cluster (`clusterctl apply`).

A file of variables has `NAME=value` lines (`export`, quotes and comments as in a shell; nothing is expanded). What is
in it, and not set or empty in the environment, is as if it had been exported: workers have it, too. A `.env` that
happens to lie in the working directory is not read, since it could be anybody's. `PATH`, `LD_*` and `PYTHON*` are not
taken from one.
"""


def markdown(flags: Callable[[str], str | None]) -> str:
    """All of it. ``flags``: the flag of a setting by its name, None where there is none."""
    return "\n".join([_HEAD, *_tables(flags)]).rstrip() + "\n"


def _tables(flags: Callable[[str], str | None]) -> Iterator[str]:
    grouped = {name for names in GROUPS.values() for name in names}
    rest = tuple(name for name in Settings.model_fields if name not in grouped)
    for heading, names in {**GROUPS, "Logs and state": rest}.items():
        yield f"## {heading}\n"
        yield "| setting | default | meaning | flag | environment | changed |"
        yield "|---|---|---|---|---|---|"
        for name in names:
            yield _row(name, Settings.model_fields[name], flags(name))
        yield ""


def _row(name: str, field: FieldInfo, flag: str | None) -> str:
    alias: Any = field.validation_alias
    variables = ", ".join(f"`{variable}`" for variable in alias.choices)
    meaning = field.description or ""
    choices = [str(choice) for choice in get_args(field.annotation) if isinstance(choice, str)]
    if choices:
        meaning += ": " + ", ".join(f"`{choice}`" for choice in choices)
    limits = _limits(field)
    meaning += f" ({limits})" if limits else ""
    shown = f"`{flag}`" if flag else ""
    return f"| `{name}` | {_default(field.default)} | {meaning} | {shown} | {variables} | {effect_of(name)} |"


def _default(value: Any) -> str:
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _limits(field: FieldInfo) -> str:
    """The least and the most, in words."""
    words = []
    for limit in field.metadata:
        for attribute, text in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
            if (value := getattr(limit, attribute, None)) is not None:
                words.append(f"{text} {value:g}")
    return ", ".join(words)
