"""`up`: run a cluster, in the foreground or detached."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click
from pydantic.fields import FieldInfo

from cluster.cli.common import F, Finite
from cluster.cli.lifecycle import detach, fetching, foreground
from cluster.cli.render import say
from cluster.deployment.profiles import resolution
from config.errors import UsageError
from config.settings import Settings
from config.values.store_url import has_password

_LISTS = ("lora", "backend", "backend_discovery", "adapter_root", "per_adapter", "cors_origin", "source_hosts")


#: Settings that have a flag, in the order of ``--help``.
_FLAGS = (
    "driver", "ray_address", "ray_insecure", "ray_resources", "ray_labels",
    "kubernetes_workers", "kubernetes_scale", "agent_key_file",
    "leave_workers", "node_lease", "node_adapters_gib",
    "instances", "engine", "model", "model_base_path", "manifest", "profile", "lora", "lora_config", "adapter_root",
    "backend_discovery",
    "keep_versions", "allow_no_effect", "backend", "backend_key_file", "manage_backend_adapters", "host", "port",
    "grpc_port", "join_listen", "worker_host",
    "tls_cert", "tls_key", "tls_client_ca", "cors_origin", "strategy", "gpus", "instances_per_gpu",
    "tensor_parallel_size", "max_gpu_memory", "max_cpu_threads", "inference_mode", "min_instances", "max_instances",
    "max_concurrent_models", "min_up", "swap_after", "autoscale", "autoscale_load", "autoscale_itl", "autoscale_ttft",
    "autoscale_up_after", "autoscale_down_after", "drain_timeout", "rolling_spare", "spares", "queue_timeout",
    "max_queue", "max_queue_wait", "max_concurrent", "per_adapter_limit", "per_adapter", "cap_n", "cap_best_of",
    "cap_tokens", "cap_prompts", "cap_logprobs", "cap_depth", "allow_chat_template", "allow_chat_template_kwargs",
    "startup_timeout", "move_streams",
    "first_byte_timeout", "stall_timeout", "resume", "migration_limit", "lb_processes", "lb_standby", "max_body",
    "max_buffered", "source_hosts", "source_private",
    "state_dir", "env_file", "log_level", "log_format", "access_log", "log_prompts", "api_keys",
    "anonymous_models", "limits_store", "zygote", "insecure", "protect_metrics", "otlp_endpoint", "response_cache",
    "response_cache_size", "jobs_at_once",
)  # fmt: skip

#: How a value is shown where its type does not say it.
_METAVARS = {
    "model_base_path": "DIR", "max_gpu_memory": "SHARE", "inference_mode": "MODE", "manifest": "FILE",
    "profile": "NAME", "lora": "NAME=PATH", "lora_config": "FILE", "adapter_root": "DIR", "backend": "URL",
    "backend_discovery": "WHERE",
    "backend_key_file": "FILE", "per_adapter": "NAME=N", "tls_cert": "FILE", "tls_key": "FILE",
    "tls_client_ca": "FILE", "strategy": "NAME", "gpus": "0,1", "max_body": "SIZE", "max_buffered": "SIZE",
    "source_hosts": "HOST",
    "state_dir": "DIR", "env_file": "FILE", "log_level": "LEVEL", "log_format": "text|json", "access_log": "WHICH",
    "otlp_endpoint": "URL", "api_keys": "FILE", "limits_store": "URL", "anonymous_models": "NAME,NAME",
    "cors_origin": "ORIGIN", "min_instances": "N[@TIMES]", "autoscale": "off|advise|on", "autoscale_load": "SHARE",
    "response_cache_size": "SIZE", "zygote": "auto|on|off",
    "driver": "local|ray|kubernetes", "ray_address": "ADDRESS", "ray_resources": "NAME=N,...",
    "ray_labels": "KEY=VALUE,...",
    "kubernetes_workers": "NAME", "agent_key_file": "FILE",
    "node_adapters_gib": "GIB", "join_listen": "ADDRESS:PORT", "worker_host": "ADDRESS",
}  # fmt: skip

_SIZES = frozenset({"max_body", "max_buffered"})

_TYPES: dict[Any, type] = {int: int, float: float, int | None: int}


def setting_flags(function: F) -> F:
    """A flag for each of `_FLAGS`, as the setting is described and typed; None or empty where it is not given."""
    for name in reversed(_FLAGS):
        field = Settings.model_fields[name]
        flag, switch = f"--{name.replace('_', '-')}", isinstance(field.default, bool)
        kind = None if name in _SIZES else _TYPES.get(field.annotation)  # 512M is one
        click.option(
            flag + f"/--no-{flag[2:]}" * (field.default is True), is_flag=switch, default=None,
            type=Finite() if kind is float else kind,
            metavar=_METAVARS.get(name, "SECONDS" if kind is float else None), multiple=name in _LISTS,
            help=_help(field, name in _LISTS),
        )(function)
    return function


def _help(field: FieldInfo, repeatable: bool) -> str:
    text = f"{field.description}; repeatable" if repeatable else str(field.description)
    if choices := [choice for choice in get_args(field.annotation) if isinstance(choice, str)]:
        text += f": {', '.join(choices)}"
    if field.default not in (None, (), {}, False):
        default = "yes" if field.default is True else field.default
        text += f" (default {default:g})" if isinstance(default, float) else f" (default {default})"
    return f"{text[0].upper()}{text[1:]}."


@click.command("up", context_settings={"ignore_unknown_options": False})
@setting_flags
@click.option("--config", type=click.Path(path_type=Path), help="A YAML file with settings.")
@click.option("--detach", "detached", is_flag=True, help="Return once the first worker is ready.")
@click.argument("engine_args", nargs=-1, type=click.UNPROCESSED)
def up_command(config: Path | None, detached: bool, engine_args: tuple[str, ...], **options: Any) -> int:
    """Run a cluster. What follows -- goes to the engine's own command line untouched.

    Settings come from flags, then the environment (CLUSTERCTL_*), then --config, then the defaults."""
    found = resolution.load(given_flags(options, engine_args), config)
    for note in found.notes:
        say(note, err=True)
    settings = found.settings
    fetching.fetch_missing(settings)
    if detached:
        return detach.start(settings)
    return foreground.run(settings)


def given_flags(options: dict[str, Any], engine_args: tuple[str, ...]) -> dict[str, Any]:
    """The settings that were named on the command line. Raises UsageError for a password, which all can see there."""
    flags = {name: value for name, value in options.items() if value is not None and value != ()}
    for name in _LISTS:
        if name in flags:
            flags[name] = list(flags[name])
    if engine_args:
        flags["engine_args"] = list(engine_args)
    if "limits_store" in flags and has_password(flags["limits_store"]):
        raise UsageError(
            "--limits-store: every user of this machine can read a command line: a URL with a password goes into "
            "the environment (CLUSTERCTL_LIMITS_STORE) or a file (--config)", exit_code=2,
        )  # fmt: skip
    return flags
