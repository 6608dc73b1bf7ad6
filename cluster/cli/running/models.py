"""`model`: the models of a cluster that has several."""

from __future__ import annotations

import time
from typing import Any

import click

from cluster.cli.common import PATIENCE, client, json_option, url_option
from cluster.cli.lifecycle.profiles import profiles_command
from cluster.cli.pull_display import pull_shown
from cluster.cli.render import STYLES, cell, console, duration, plain_table, say, say_json
from cluster.client import ClusterClient, ClusterError
from config.disk import locations
from config.disk.absolute import absolute
from config.errors import UsageError, nearest
from config.models import DEMO
from config.values.references import is_reference

_LOOK_EVERY = 0.3

#: How a state looks where workers' have no style of their own for it.
_STYLES = {**STYLES, "up": STYLES.get("ready", ""), "asleep": "dim", "down": "dim"}

_name = click.argument("name")


@click.group("model")
def model_command() -> None:
    """Load, unload and look at the models of a cluster."""


model_command.add_command(profiles_command)


@model_command.command("load", context_settings={"ignore_unknown_options": False})
@_name
@click.option(
    "--model", "path", required=True, metavar="SOURCE",
    help="Folder, file, reference (hf://, ms://, s3://, https://), hub id, or name in a manifest.",
)
@click.option("--engine", help="What its workers run; default that of the cluster.")
@click.option("--instances", type=click.IntRange(1, 1024), help="Workers that it has when it is up (default 1).")
@click.option("--min", "least", type=click.IntRange(1, 1024), help="Fewest workers that scaling leaves it.")
@click.option("--max", "most", type=click.IntRange(1, 1024), help="Most workers that scaling gives it.")
@click.option("--gpus", metavar="0,1", help="GPUs that it may use.")
@click.option("--idle-timeout", metavar="TIME", help="It goes after that time unasked: 900, or 15m.")
@click.option("--priority", type=click.IntRange(-1000, 1000), help="Of two that could make room the lower goes first.")
@click.option("--lora", "adapters", multiple=True, metavar="NAME=SOURCE", help="A LoRA adapter of it; repeatable.")
@click.option("--strategy", help="How requests are spread over its workers; default as in the whole cluster.")
@click.option("--profile", help="Of the manifest's profiles this one.")
@click.option("--pin", "pinned", is_flag=True, help="It stays up, whoever needs room.")
@click.option("--no-wait", is_flag=True, help="Return at once; it comes up by itself.")
@url_option
@click.argument("engine_args", nargs=-1, type=click.UNPROCESSED)
def load(name: str, path: str, url: str | None, no_wait: bool, engine_args: tuple[str, ...], **given: Any) -> int:
    """Let NAME be a model that can be asked for, and bring it up where there is room. What follows -- goes to the
    engine's own command line."""
    fields = {_KEYS.get(key, key): value for key, value in given.items() if value not in (None, (), False)}
    if "adapters" in fields:
        fields["adapters"] = dict(_adapter(pair) for pair in fields["adapters"])
    if engine_args:
        fields["args"] = list(engine_args)
    return load_model(url, name, _absolute(path), no_wait, **fields)


def load_model(url: str | None, name: str, path: str, no_wait: bool = False, **fields: Any) -> int:
    """Waits until it is up, and says so."""
    with client(url) as cluster:
        with pull_shown(cluster, path):
            model = cluster.load_model(name, path, **fields)["model"]
        return _brought_up(cluster, name, model["state"], no_wait)


_KEYS = {"least": "min", "most": "max"}


@model_command.command("list")
@json_option
@url_option
def list_models(as_json: bool, url: str | None) -> int:
    """Show every model, and whether it is up."""
    with client(url) as cluster:
        found = _every(cluster)
    if as_json:
        return say_json({"models": found})
    if not found:
        say("no models to manage: the cluster serves the one that it was started with")
        return 0
    table = plain_table("model", "state", "engine", ">workers", ">in flight", ">waiting", ">memory", ">swaps", "")
    for model in found:
        memory = "-" if not model["memory_bytes"] else f"{model['memory_bytes'] / 2**30:.1f} GiB"
        signs = [sign for sign, so in (("default", model["is_default"]), ("pinned", model["pinned"])) if so]
        table.add_row(
            cell(model["name"]), cell(model["state"], _STYLES.get(model["state"], "")), cell(model["engine"]),
            cell(f"{model['ready']}/{model['wanted'] or model['instances']}"), cell(model["in_flight"]),
            cell(model["waiting"]), cell(memory), cell(model["swaps"]),
            cell(", ".join([*signs, *filter(None, [model["why"]])]), "dim"),
        )
    console().print(table)
    return 0


@model_command.command("show")
@_name
@json_option
@url_option
def show(name: str, as_json: bool, url: str | None) -> int:
    """Show all that is known of NAME."""
    with client(url) as cluster:
        model = _find(cluster, name)
    if as_json:
        return say_json(model)
    for key, value in model.items():
        say(f"{key}: {_shown(key, value)}")
    return 0


@model_command.command("unload")
@_name
@url_option
def unload(name: str, url: str | None) -> int:
    """Take NAME and its adapters off the cluster and forget them; what runs there may finish."""
    with client(url) as cluster:
        gone = cluster.unload_model(name)["adapters"]
    say(f"{name} unloaded" + (f", and its adapters {', '.join(gone)}" if gone else ""))
    return 0


@model_command.command("pin")
@_name
@url_option
def pin(name: str, url: str | None) -> int:
    """Keep NAME up, whoever needs room."""
    with client(url) as cluster:
        say(f"{name}: pinned, {cluster.pin_model(name)['model']['state']}")
    return 0


@model_command.command("unpin")
@_name
@url_option
def unpin(name: str, url: str | None) -> int:
    """Let NAME make room for others again."""
    with client(url) as cluster:
        say(f"{name}: not pinned, {cluster.unpin_model(name)['model']['state']}")
    return 0


@model_command.command("sleep")
@_name
@url_option
def sleep(name: str, url: str | None) -> int:
    """Put NAME to sleep or, where its engine cannot, take it down, until it is asked for."""
    with client(url) as cluster:
        say(f"{name}: {cluster.sleep_model(name)['model']['state']}")
    return 0


@model_command.command("wake")
@_name
@click.option("--no-wait", is_flag=True, help="Return at once; it comes up by itself.")
@url_option
def wake(name: str, no_wait: bool, url: str | None) -> int:
    """Bring NAME up where there is room."""
    with client(url) as cluster:
        return _brought_up(cluster, name, cluster.wake_model(name)["model"]["state"], no_wait)


def _brought_up(cluster: ClusterClient, name: str, state: str, no_wait: bool) -> int:
    """Waits until it answers, or its start has failed."""
    if no_wait or state == "up":
        say(f"{name}: {state}")
        return 0
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        model = _find(cluster, name)
        if model["state"] == "up":
            say(f"{name}: up, {model['ready']} of {model['wanted']} workers ready")
            return 0
        if model["state"] == "failed":
            say(f"{name} has failed: {model['why']}", err=True)
            return 1
        time.sleep(_LOOK_EVERY)
    raise ClusterError(f"{name} is not up after {PATIENCE:g} s; it comes up when there is room")


def _every(cluster: ClusterClient) -> list[dict[str, Any]]:
    return [dict(model) for model in cluster.cluster_models()]


def _find(cluster: ClusterClient, name: str) -> dict[str, Any]:
    found = {each: model for model in _every(cluster) for each in model["names"]}
    if name not in found:
        raise ClusterError(f"no model {name!r}{nearest(name, found)}; to manage: {', '.join(found) or 'none'}")
    return found[name]


def _shown(key: str, value: Any) -> str:
    if value is None or value in ([], ""):
        return "-"
    if key == "memory_bytes":
        return f"{value / 2**30:.1f} GiB"
    if key in ("retry_at", "last_used"):
        ago = time.time() - value
        return f"{duration(abs(ago))} ago" if ago >= 0 else f"in {duration(-ago)}"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _absolute(path: str) -> str:
    try:
        return path if path == DEMO else str(locations.setting("model", path))
    except ValueError as error:
        raise UsageError(f"--model: {error}", exit_code=2) from None


def _adapter(pair: str) -> tuple[str, str]:
    name, equals, path = pair.partition("=")
    if not name or not equals or not path:
        raise UsageError(f"--lora: NAME=PATH is needed, not {pair!r}", exit_code=2)
    return name, path if is_reference(path) else str(absolute(path))
