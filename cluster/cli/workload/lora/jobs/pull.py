"""`lora pull`: adapters from elsewhere brought to this machine, before any cluster is started, or for one that runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cluster.cli.arguments import AbsolutePath
from cluster.cli.common import state_dir_option
from cluster.cli.render import cell, console, plain_table, say
from cluster.cli.workload.lora.shared import size_text
from config import lora_config
from config.disk.files import replacing
from config.errors import UsageError
from config.model_names import NAME
from config.values.references import is_reference, parse
from worker.sources.selection import ADAPTER


@click.command("pull")
@click.argument("named", nargs=-1, metavar="[NAME=SOURCE]...")
@click.option("--config", type=AbsolutePath(), metavar="FILE", help="A list of them, as `up --lora-config` reads it.")
@click.option("--write", type=AbsolutePath(), metavar="FILE", help="JSON of their names and paths, for --lora-config.")
@state_dir_option
def pull(named: tuple[str, ...], config: Path | None, write: Path | None, state_dir: Path | None) -> int:
    """Fetch adapters (hf://, ms://, s3://, https://) into the state directory, where they stay; those that are there
    are looked for in a newer revision. Nothing is loaded."""
    # They read settings: not for every start of the command line.
    from cluster.cli.lifecycle.fetching import BY_HAND, fetch
    from config import settings
    from worker import fetched

    sources = _sources(named, config)
    wanted = settings.load({} if state_dir is None else {"state_dir": str(state_dir)})
    references = {name: text for name, text in sources.items() if is_reference(text)}
    by = str(config) if config is not None else BY_HAND
    done: Mapping[str, Any] = {"fetched": {}, "failed": {}}
    if references:
        done = fetch(wanted, dict.fromkeys(references.values()), ADAPTER, refresh=True, kept=by)
    for why in done["failed"].values():
        say(why, err=True)
    _show(references, done["fetched"])
    if done["failed"]:
        return 1
    if config is not None:
        fetched.store(wanted).keep_only(by, {parse(text).key for text in references.values()})
    if write is not None:
        found = {text: one["folder"] for text, one in done["fetched"].items()}
        _write(write, {name: found.get(text, text) for name, text in sources.items()})
    return 0


def _sources(named: tuple[str, ...], config: Path | None) -> dict[str, str]:
    """By name. Raises UsageError."""
    found = {} if config is None else {entry.name: entry.path for entry in lora_config.read(config).entries}
    for pair in named:
        name, equals, text = pair.partition("=")
        if not equals or not NAME.fullmatch(name) or not is_reference(text):
            raise UsageError(f"NAME=SOURCE such as poet=hf://org/poet is needed, not {pair[:200]!r}", exit_code=2)
        if name in found:
            raise UsageError(f"the adapter name {name!r} is given twice", exit_code=2)
        try:
            parse(text)
        except ValueError as error:
            raise UsageError(f"{name}: {error}", exit_code=2) from None
        found[name] = text
    if not found:
        raise UsageError("nothing to fetch: name some, or a file that lists them with --config", exit_code=2)
    return found


def _show(references: Mapping[str, str], found: Mapping[str, Any]) -> None:
    table = plain_table("name", "from", "revision", ">size", "folder")
    for name, text in references.items():
        if (one := found.get(text)) is not None:
            size = sum(size for size, _ in one["files"].values())
            table.add_row(cell(name), cell(one["reference"]), cell(one["revision"][:12]), size_text(size),
                          cell(one["folder"]))  # fmt: skip
    if table.row_count:
        console().print(table)


def _write(path: Path, paths: Mapping[str, str]) -> None:
    try:
        with replacing(path) as file:
            file.write(json.dumps(paths, indent=2).encode() + b"\n")
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    say(f"{path}: {len(paths)} adapters")
