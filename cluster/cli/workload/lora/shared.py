"""What several commands of `lora` take and show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from rich.table import Table

from cluster.cli.arguments import AbsolutePath, FolderOrReference, adapter_name
from cluster.cli.render import cell, plain_table, say

#: Of the states of an adapter on an instance.
STYLES = {"loaded": "green", "loading": "yellow", "missing": "red", "refused": "bold red", "lazy": "dim"}

name_argument = click.argument("name", callback=adapter_name)
path_argument = click.argument("path", type=AbsolutePath())
source_argument = click.argument("source", type=FolderOrReference())
no_effect_option = click.option("--allow-no-effect", is_flag=True, help="It may answer as the base model does.")


def instances_table(adapter: Mapping[str, Any], header: bool = False) -> Table:
    table = plain_table("instance", "state", ">version", "reason")
    table.show_header = header
    for name, instance in adapter.get("instances", {}).items():
        state = instance["state"]
        table.add_row(
            cell(name), cell(state, STYLES.get(state, "")), cell(instance.get("version")),
            cell(instance.get("reason") or "", "dim"),
        )
    return table


def say_unchecked(sentences: Any, *, err: bool) -> None:
    for sentence in sentences:
        say(f"not checked: {sentence}", err=err)


def size_text(size: float | None) -> str:
    if size is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def say_converted(sentences: Any, *, err: bool) -> None:
    for sentence in sentences:
        say(f"converted: {sentence}", err=err)
