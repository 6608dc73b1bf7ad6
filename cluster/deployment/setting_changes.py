"""Changed settings on a running cluster: which may be, and what each of them does to it. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from config.errors import UsageError, nearest
from config.settings import Settings, explain, known_settings


class Effect(StrEnum):
    """What a change of a setting means, in the words people are told."""

    AT_ONCE = "at once"
    WORKERS = "rolling restart of the workers"
    BALANCER = "replacement of the balancer"
    NEVER = "not on a running cluster"


_E = Effect

#: Every setting.
EFFECTS: Mapping[str, Effect] = {
    "instances": _E.AT_ONCE,
    "engine": _E.NEVER,
    "model": _E.NEVER,
    "lora": _E.NEVER,
    "backend": _E.NEVER,
    "backend_key_file": _E.NEVER,
    "manage_backend_adapters": _E.NEVER,
    "host": _E.NEVER,
    "port": _E.NEVER,
    "tls_cert": _E.BALANCER,
    "tls_key": _E.BALANCER,
    "tls_client_ca": _E.BALANCER,
    "strategy": _E.AT_ONCE,
    "gpus": _E.NEVER,
    "instances_per_gpu": _E.NEVER,
    "tensor_parallel_size": _E.NEVER,
    "min_instances": _E.AT_ONCE,
    "max_instances": _E.AT_ONCE,
    "cpu_kv_gib": _E.WORKERS,
    "drain_timeout": _E.AT_ONCE,
    "rolling_spare": _E.AT_ONCE,
    "queue_timeout": _E.BALANCER,
    "max_queue": _E.BALANCER,
    "max_queue_wait": _E.BALANCER,
    "max_concurrent": _E.BALANCER,
    "per_adapter_limit": _E.BALANCER,
    "per_adapter": _E.BALANCER,
    "startup_timeout": _E.AT_ONCE,
    "stop_grace": _E.AT_ONCE,
    "health_interval": _E.AT_ONCE,
    "health_timeout": _E.AT_ONCE,
    "health_failures": _E.AT_ONCE,
    "restart_failures": _E.AT_ONCE,
    "restart_delay": _E.AT_ONCE,
    "stall_timeout": _E.BALANCER,
    "first_byte_timeout": _E.BALANCER,
    "canary_interval": _E.AT_ONCE,
    "resume": _E.BALANCER,
    "migration_limit": _E.BALANCER,
    "lb_processes": _E.BALANCER,
    "lb_standby": _E.NEVER,
    "max_body": _E.BALANCER,
    "max_connections": _E.BALANCER,
    "head_timeout": _E.BALANCER,
    "body_timeout": _E.BALANCER,
    "stream_buffer": _E.BALANCER,
    "trusted_proxies": _E.BALANCER,
    "extra_routes": _E.BALANCER,
    "forward_headers": _E.BALANCER,
    "max_buffered": _E.BALANCER,
    "send_timeout": _E.BALANCER,
    "min_client_rate": _E.BALANCER,
    "max_client_connections": _E.BALANCER,
    "max_client_uploads": _E.BALANCER,
    "admin_key": _E.BALANCER,
    "protect_metrics": _E.BALANCER,
    "allowed_hosts": _E.BALANCER,
    "log_level": _E.BALANCER,
    "log_format": _E.NEVER,
    "access_log": _E.BALANCER,
    "log_prompts": _E.BALANCER,
    "otlp_endpoint": _E.BALANCER,
    "lora_config": _E.NEVER,
    "keep_versions": _E.AT_ONCE,
    "allow_no_effect": _E.AT_ONCE,
    "adapter_root": _E.AT_ONCE,
    "state_dir": _E.NEVER,
    "engine_args": _E.WORKERS,
}

#: What does it instead, where something does.
INSTEAD: Mapping[str, str] = {"lora": "`clusterctl lora load` brings an adapter"}

_SECRET = frozenset({"admin_key"})


@dataclass(frozen=True, slots=True)
class Change:
    """``old`` and ``new`` as they would stand in a file."""

    setting: str
    old: Any
    new: Any

    @property
    def effect(self) -> Effect:
        return EFFECTS[self.setting]

    def shown(self) -> dict[str, Any]:
        """For people: no secrets."""
        secret = self.setting in _SECRET
        old, new = ("(set)" if v and secret else v for v in (self.old, self.new))
        return {"setting": self.setting, "old": old, "new": new, "effect": str(self.effect)}


def merge(current: Settings, given: Mapping[str, Any], defaults: Sequence[str] = ()) -> Settings:
    """``current`` with what is ``given``, and the settings named in ``defaults`` as nobody had given them. Raises
    UsageError that names the setting."""
    for name in (*given, *defaults):
        if name not in Settings.model_fields:
            raise UsageError(f"unknown setting {name!r}{nearest(name, known_settings())}", exit_code=2)
    usual = {name: Settings.model_fields[name].get_default() for name in defaults}
    values = {**json.loads(current.to_json()), **usual, **given}
    try:
        return Settings(**values)
    except ValidationError as error:
        raise UsageError(explain(error, given, {}, None), exit_code=2) from None


def changes(old: Settings, new: Settings, running: Mapping[str, Any]) -> list[Change]:
    """What differs, in the order of the settings. ``running`` is what was changed at run time and holds instead of
    what ``old`` says (the number of workers, the strategy)."""
    before, after = {**json.loads(old.to_json()), **running}, json.loads(new.to_json())
    return [
        Change(name, before[name], after[name]) for name in Settings.model_fields if after[name] != before[name]
    ]


def refusal(found: Sequence[Change]) -> str | None:
    """A sentence that names those that cannot be changed, or None."""
    never = [change.setting for change in found if change.effect is Effect.NEVER]
    if not never:
        return None
    hints = "".join(f"; {INSTEAD[name]}" for name in never if name in INSTEAD)
    verb = "is" if len(never) == 1 else "are"
    return (
        f"{', '.join(never)} {verb} not changed on a running cluster: `down`, then `up` with the new "
        f"value{'s' * (len(never) > 1)}; nothing was changed{hints}"
    )
