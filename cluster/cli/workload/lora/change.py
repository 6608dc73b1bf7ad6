"""`lora load`, `update`, `rollback`, `unload`: changes of what every worker has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import click

from cluster.cli.common import client, model_option, url_option
from cluster.cli.render import say
from cluster.cli.workload.lora.shared import (
    name_argument,
    no_effect_option,
    say_converted,
    say_unchecked,
    source_argument,
)
from cluster.cli.workload.lora.watch import watched
from cluster.client import AdapterChanged, ClusterClient


@click.command("load")
@name_argument
@source_argument
@click.option("--description", help="What it is for; shown by `lora show`.")
@no_effect_option
@model_option
@url_option
def load(
    name: str, source: str, description: str | None, allow_no_effect: bool, model: str | None, url: str | None
) -> int:
    """Load the adapter in the folder SOURCE as NAME, or that which hf://, ms://, s3:// or https:// names."""
    more: dict[str, Any] = {"description": description, "allow_no_effect": allow_no_effect, "model": model}
    return change(url, name, lambda cluster: cluster.load_adapter(name, source, **more), source)


@click.command("update")
@name_argument
@source_argument
@no_effect_option
@url_option
def update(name: str, source: str, allow_no_effect: bool, url: str | None) -> int:
    """Make the adapter SOURCE, a folder or a reference, the next version of NAME, worker by worker."""
    with client(url) as cluster:
        cluster.adapter(name)  # a request with `load_inplace` would load it as a new one
        ask = partial(cluster.load_adapter, name, source, replace=True, allow_no_effect=allow_no_effect)
        changed(cluster, name, ask, source)
    return 0


@click.command("rollback")
@name_argument
@click.option("--to", "version", type=click.IntRange(1), help="The version; default the one before.")
@url_option
def rollback(name: str, version: int | None, url: str | None) -> int:
    """Go back to an earlier version of NAME."""
    return change(url, name, lambda cluster: cluster.rollback_adapter(name, version))


@click.command("unload")
@name_argument
@url_option
def unload(name: str, url: str | None) -> int:
    """Take NAME off every worker and forget it."""
    with client(url) as cluster:
        cluster.unload_adapter(name)
    say(f"{name}: unloaded")
    return 0


def change(
    url: str | None, name: str, ask: Callable[[ClusterClient], AdapterChanged], source: str | None = None
) -> int:
    """Asks for a change, shows how it goes, and says in one line what came of it. ``source``: a path or a reference."""
    with client(url) as cluster:
        changed(cluster, name, lambda: ask(cluster), source)
    return 0


def changed(
    cluster: ClusterClient, name: str, ask: Callable[[], AdapterChanged], source: str | None = None
) -> AdapterChanged:
    """As `change`, of a ``cluster`` that more is asked of."""
    with watched(cluster, name, source or ""):
        result = ask()
    say_converted(result.get("converted") or (), err=True)
    say_unchecked(result.get("unchecked") or (), err=True)
    states = list(result.get("instances", {}).values())
    loaded = states.count("loaded")
    what = f"{name}: version {result['version']}"
    if result["state"] == "registered":
        say(f"{what} registered; it is loaded when a worker is ready")
    else:
        count = str(loaded) if loaded == len(states) else f"{loaded} of {len(states)}"
        say(f"{what} on {count} instance{'' if count == '1' else 's'}")
    return result
