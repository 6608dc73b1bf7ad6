"""``INFERENCE_MODE``: what its words set, and what contradicts them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_OTHERS = ("backend", "backend_discovery")
_WORDS = ("instances", "min_instances", "max_instances", *_OTHERS, "autoscale")


def overlay(mode: str, settings: Mapping[str, Any], source: Callable[[str], str | None]) -> dict[str, Any]:
    """What ``mode`` makes of ``settings``; ``source`` says where one was given, None for those that were not.

    ``single``: one instance, and no more by scaling. ``multi_instance``: as many workers of our own as are asked for,
    and nobody else's. ``load_balance``: other servers, and workers beside them only if they are asked for.

    Raises ValueError, one sentence, for what was given and does not go with it."""
    given = {name: settings[name] for name in _WORDS if source(name) is not None}

    def clash(name: str, why: str) -> ValueError:
        return ValueError(f"{mode} is {why}, and {source(name)} says {_said(given[name])}")

    if mode == "single":
        for name in ("instances", "min_instances", "max_instances"):
            if name in given and given[name] not in (None, 1):
                raise clash(name, "one instance")
        for name in _OTHERS:
            if given.get(name):
                raise clash(name, "one instance and no other server")
        if given.get("autoscale") == "on":
            raise clash("autoscale", "one instance")
        return {"instances": 1, "max_instances": 1}
    if mode == "multi_instance":
        for name in _OTHERS:
            if given.get(name):
                raise clash(name, "workers of our own (load_balance has other servers too)")
        if "instances" not in given and not settings["models"]:
            raise ValueError("multi_instance needs to be told how many: --instances or CLUSTER_INSTANCES")
        return {}
    if "instances" in given:
        return {}
    if not any(map(given.get, _OTHERS)):
        raise ValueError("load_balance needs servers (--backend URL) or workers (--instances) to balance")
    return {"instances": 0}


def _said(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
