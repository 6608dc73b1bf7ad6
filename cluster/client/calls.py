"""What each method asks. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from cluster.client import results as r
from cluster.client.core import SLOW, Call, Foreign, as_list, as_object, no_result, parsed

#: A stream of events that is silent for so long (s) is dead: it would have had comments.
_SILENCE = 40.0

_ANY: type[dict[str, Any]] = dict


def _named(kind: str, name: str, rest: str = "") -> str:
    return f"/v1/{kind}/{quote(name, safe='')}{rest}"


def _instance(name: str, rest: str = "") -> str:
    return _named("cluster/instances", name, rest)


# looking


def status() -> Call[r.Status]:
    return Call("GET", "/v1/cluster/status", as_object(r.Status))


def snapshot() -> Call[dict[str, Any]]:
    return Call("GET", "/v1/cluster/snapshot", as_object(_ANY))


def openapi() -> Call[dict[str, Any]]:
    return Call("GET", "/v1/cluster/openapi.json", as_object(_ANY))


def history(seconds: int) -> Call[dict[str, Any]]:
    return Call("GET", "/v1/cluster/history", as_object(_ANY), params={"seconds": seconds})


def why(request_id: str | None, limit: int) -> Call[list[dict[str, Any]]]:
    one = {} if request_id is None else {"request_id": request_id}
    return Call("GET", "/v1/cluster/why", as_list(_ANY, "decisions"), params={"limit": limit, **one})


def system_health() -> Call[r.SystemHealth]:
    return Call("GET", "/v1/system/health", as_object(r.SystemHealth))


def system_metrics() -> Call[r.SystemMetrics]:
    return Call("GET", "/v1/system/metrics", as_object(r.SystemMetrics))


def healthy() -> Call[None]:
    return Call("GET", "/health", no_result, timeout=5.0)


def models() -> Call[list[r.Model]]:
    return Call("GET", "/v1/models", as_list(r.Model, "data"))


def events(limit: int, since: int | None) -> Call[list[r.Event]]:
    after = {} if since is None else {"since": since}
    return Call("GET", "/v1/cluster/events", as_list(r.Event, "events"), params={"limit": limit, **after})


def listen(since: int) -> Call[None]:
    """A stream."""
    headers = {"Accept": "text/event-stream", "Last-Event-ID": str(since)}
    return Call("GET", "/v1/cluster/events", no_result, headers=headers, silence=_SILENCE)


def logs(instance: str, lines: int, follow: bool) -> Call[None]:
    """A stream."""
    params: dict[str, str | int] = {"lines": lines, "follow": "1" if follow else "0"}
    return Call("GET", _instance(instance, "/logs"), no_result, params=params, silence=None if follow else 10.0)


# changing


def scale(instances: int) -> Call[r.Scaled]:
    return Call("POST", "/v1/cluster/scale", as_object(r.Scaled), {"instances": instances})


def scale_by(change: int) -> Call[r.Scaled]:
    action = "scale_up" if change > 0 else "scale_down"
    return Call("POST", "/v1/cluster/scale", as_object(r.Scaled), {"action": action, "count": abs(change)})


def strategy(name: str) -> Call[r.StrategySet]:
    return Call("POST", "/v1/cluster/strategy", as_object(r.StrategySet), {"strategy": name})


def restart(instance: str) -> Call[r.Restarting]:
    return Call("POST", "/v1/cluster/restart", as_object(r.Restarting), {"instance_id": instance})


def restart_rolling(spare: bool | None) -> Call[r.Restarting]:
    body = {"rolling": True} if spare is None else {"rolling": True, "spare": spare}
    return Call("POST", "/v1/cluster/restart", as_object(r.Restarting), body)


def drain(instance: str, grace: float | None) -> Call[r.Drained]:
    body = {} if grace is None else {"grace": grace}
    return Call("POST", _instance(instance, "/drain"), as_object(r.Drained), body)


def undrain(instance: str) -> Call[r.Drained]:
    return Call("DELETE", _instance(instance, "/drain"), as_object(r.Drained))


def weight(instance: str, weight: int) -> Call[r.Weighted]:
    return Call("PATCH", _instance(instance), as_object(r.Weighted), {"weight": weight})


def apply(
    settings: Mapping[str, Any] | None, defaults: Sequence[str], previous: bool, dry_run: bool, spare: bool | None
) -> Call[r.Applied]:
    body: dict[str, Any] = {"settings": dict(settings or {}), "defaults": list(defaults)}
    body |= {"previous": previous, "dry_run": dry_run}
    if spare is not None:
        body["spare"] = spare
    return Call("POST", "/v1/cluster/apply", as_object(r.Applied), body)


def shutdown(now: bool) -> Call[r.ShuttingDown]:
    return Call("POST", "/v1/cluster/shutdown", as_object(r.ShuttingDown), {"now": now})


def ui_link() -> Call[r.UiLink]:
    return Call("POST", "/v1/cluster/ui/link", as_object(r.UiLink), {})


# adapters


def adapters() -> Call[list[r.Adapter]]:
    return Call("GET", "/v1/lora_adapters", as_list(r.Adapter, "adapters"))


def adapter(name: str) -> Call[r.AdapterDetail]:
    return Call("GET", _named("lora_adapters", name), as_object(r.AdapterDetail))


def load_adapter(
    name: str, path: Path | str, replace: bool, description: str | None, allow_no_effect: bool
) -> Call[r.AdapterChanged]:
    body: dict[str, Any] = {"lora_name": name, "lora_path": str(path)}
    if replace:
        body["load_inplace"] = True
    if description is not None:
        body["description"] = description
    if allow_no_effect:
        body["allow_no_effect"] = True
    return Call("POST", "/v1/load_lora_adapter", as_object(r.AdapterChanged), body, timeout=SLOW)


def unload_adapter(name: str) -> Call[r.AdapterUnloaded]:
    return Call("POST", "/v1/unload_lora_adapter", as_object(r.AdapterUnloaded), {"lora_name": name}, timeout=SLOW)


def rollback_adapter(name: str, version: int | None) -> Call[r.AdapterChanged]:
    body = {} if version is None else {"version": version}
    return Call("POST", _named("lora_adapters", name, "/rollback"), as_object(r.AdapterChanged), body, timeout=SLOW)


# models


def complete(path: str, body: Mapping[str, Any]) -> Call[str]:
    """The text of an answer, which may be empty."""
    return Call("POST", path, _text, body, timeout=SLOW)


def first_token(model: str, prompt: str) -> Call[None]:
    """A stream."""
    body = {"model": model, "prompt": prompt, "max_tokens": 1, "temperature": 0, "stream": True}
    return Call("POST", "/v1/completions", no_result, body, silence=SLOW)


def _text(content: bytes) -> str:
    answer = parsed(content)
    try:
        choice = answer["choices"][0]
        return str((choice["message"]["content"] if "message" in choice else choice["text"]) or "")
    except (LookupError, TypeError):
        raise Foreign("an answer without text") from None
