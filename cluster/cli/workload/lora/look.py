"""`lora list`, `show`, `test`: which adapters there are, where they are loaded, and what they say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from cluster.cli.common import client, json_option, url_option
from cluster.cli.render import ago, cell, console, plain_table, say, say_json
from cluster.cli.workload.lora.shared import STYLES, instances_table, name_argument, size_text
from cluster.cli.workload.models import base_models
from cluster.client import ClusterClient, ClusterError


@click.command("list")
@json_option
@url_option
def list_adapters(as_json: bool, url: str | None) -> int:
    """Show every adapter, and where it is loaded."""
    with client(url) as cluster:
        adapters = cluster.adapters()
    if as_json:
        say_json({"adapters": adapters})
    elif not adapters:
        say("no adapters")
    else:
        console().print(_list_table(adapters))
    return 0


@click.command("show")
@name_argument
@json_option
@url_option
def show(name: str, as_json: bool, url: str | None) -> int:
    """Show the versions of NAME, and how each instance has it."""
    with client(url) as cluster:
        adapter = cluster.adapter(name)
    if as_json:
        return say_json(adapter)
    screen = console()
    for line in _about(adapter):
        screen.print(cell(line))
    screen.print()
    screen.print(_versions_table(adapter["versions"]))
    screen.print()
    screen.print(instances_table(adapter, header=True))
    return 0


@click.command("test")
@name_argument
@click.argument("prompt")
@click.option("--max-tokens", default=64, show_default=True, type=click.IntRange(1), help="Longest answer.")
@url_option
def test(name: str, prompt: str, max_tokens: int, url: str | None) -> int:
    """Ask the base model and the adapter NAME the same PROMPT; show the answers side by side."""
    with client(url) as cluster:
        base = _base_of(cluster, name)
        answers = [cluster.ask(model, prompt, max_tokens) for model in (base, name)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in (base, name):
        table.add_column(cell(heading), ratio=1, overflow="fold")
    table.add_row(*(cell(answer, lines=True) for answer in answers))
    console().print(table)
    return 0


def _list_table(adapters: Sequence[Mapping[str, Any]]) -> Table:
    instances = list(dict.fromkeys(name for adapter in adapters for name in adapter["instances"]))
    table = plain_table("name", ">version", ">rank", ">size", "state", *instances, ">requests", ">last use")
    for adapter in adapters:
        table.add_row(
            cell(adapter["lora_name"]), cell(adapter["version"]), cell(adapter["rank"]), size_text(adapter["size"]),
            cell(adapter["state"]), *(_cell(adapter, instance) for instance in instances),
            cell(adapter.get("requests_total")), ago(adapter.get("last_used")),
        )
    return table


def _cell(adapter: Mapping[str, Any], instance: str) -> Text:
    """A state; with the version where it is not the active one."""
    found = adapter["instances"].get(instance)
    if found is None:
        return cell("-", "dim")
    version = found.get("version")
    other = "" if version in (None, adapter["version"]) else f" v{version}"
    return cell(found["state"] + other, STYLES.get(found["state"], ""))


def _versions_table(versions: Sequence[Mapping[str, Any]]) -> Table:
    table = plain_table("", ">version", "content", ">rank", "modules", ">size", ">created", "base model", "source")
    for version in versions:
        table.add_row(
            "*" if version["active"] else "", cell(version["version"]), cell(str(version["hash"])[:12]),
            cell(version["rank"]), cell(", ".join(version["target_modules"])), size_text(version["size"]),
            ago(version["created"]), cell(version["base_model"] or None), cell(version["source"] or None),
        )
    return table


def _about(adapter: Mapping[str, Any]) -> Iterator[str]:
    description = adapter.get("description")
    yield f"{adapter['lora_name']}: {description}" if description else adapter["lora_name"]
    loading = "" if adapter["auto_load"] else ", loaded on first use"
    yield (
        f"version {adapter['version']}, {adapter['state']}{loading}, "
        f"{adapter.get('requests_total', 0)} requests, last use {ago(adapter.get('last_used'))}"
    )


def _base_of(cluster: ClusterClient, name: str) -> str:
    """The served name of the model below ``name``."""
    listed = cluster.models()
    models: dict[str, str | None] = {model["id"]: model.get("parent") for model in listed}
    if models.get(name) is None:
        cluster.adapter(name)  # an unknown one is the cluster's to explain
    bases = list(base_models(listed))
    parent = models.get(name)
    if parent in bases:
        return parent
    if not bases:
        raise ClusterError("the cluster lists no base model")
    return bases[0]
