"""`lora`: the adapters of a running cluster."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.live import Live
from rich.table import Table
from rich.text import Text

from cluster.cli.arguments import AbsolutePath, adapter_name
from cluster.cli.common import client, model_option, url_option
from cluster.cli.render import cell, console, duration, plain_table, say
from cluster.cli.workload.lora_bench import bench
from cluster.client import AdapterChanged, ClusterClient, ClusterError
from config.errors import UsageError

#: How often (s) the instances are looked at while they change.
_LOOK_EVERY = 0.25

#: ``--max-lora-rank`` of a cluster that is told nothing, where no adapter needs more.
_USUAL_RANK = 16

_STYLES = {"loaded": "green", "loading": "yellow", "missing": "red", "refused": "bold red", "lazy": "dim"}


_name = click.argument("name", callback=adapter_name)
_path = click.argument("path", type=AbsolutePath())
_no_effect = click.option("--allow-no-effect", is_flag=True, help="It may answer as the base model does.")
_json = click.option("--json", "as_json", is_flag=True, help="As the API answers it.")


@click.group("lora")
def lora_command() -> None:
    """Load, update and look at LoRA adapters, on every worker at once."""


lora_command.add_command(bench)


@lora_command.command("load")
@_name
@_path
@click.option("--description", help="What it is for; shown by `lora show`.")
@_no_effect
@model_option
@url_option
def load(
    name: str, path: Path, description: str | None, allow_no_effect: bool, model: str | None, url: str | None
) -> int:
    """Load the adapter in folder PATH as NAME."""
    more: dict[str, Any] = {"description": description, "allow_no_effect": allow_no_effect, "model": model}
    return _change(url, name, lambda cluster: cluster.load_adapter(name, path, **more))


@lora_command.command("update")
@_name
@_path
@_no_effect
@url_option
def update(name: str, path: Path, allow_no_effect: bool, url: str | None) -> int:
    """Make the adapter in folder PATH the next version of NAME, worker by worker."""
    more: dict[str, Any] = {"replace": True, "allow_no_effect": allow_no_effect}
    return _change(url, name, lambda cluster: cluster.load_adapter(name, path, **more))


@lora_command.command("rollback")
@_name
@click.option("--to", "version", type=click.IntRange(1), help="The version; default the one before.")
@url_option
def rollback(name: str, version: int | None, url: str | None) -> int:
    """Go back to an earlier version of NAME."""
    return _change(url, name, lambda cluster: cluster.rollback_adapter(name, version))


@lora_command.command("unload")
@_name
@url_option
def unload(name: str, url: str | None) -> int:
    """Take NAME off every worker and forget it."""
    with client(url) as cluster:
        cluster.unload_adapter(name)
    say(f"{name}: unloaded")
    return 0


@lora_command.command("list")
@_json
@url_option
def list_adapters(as_json: bool, url: str | None) -> int:
    """Show every adapter, and where it is loaded."""
    with client(url) as cluster:
        adapters = cluster.adapters()
    if as_json:
        click.echo(json.dumps({"adapters": adapters}, indent=2))
    elif not adapters:
        say("no adapters")
    else:
        console().print(_list_table(adapters))
    return 0


@lora_command.command("show")
@_name
@_json
@url_option
def show(name: str, as_json: bool, url: str | None) -> int:
    """Show the versions of NAME, and how each instance has it."""
    with client(url) as cluster:
        adapter = cluster.adapter(name)
    if as_json:
        click.echo(json.dumps(adapter, indent=2))
        return 0
    screen = console()
    for line in _about(adapter):
        screen.print(cell(line))
    screen.print()
    screen.print(_versions_table(adapter["versions"]))
    screen.print()
    screen.print(_instances_table(adapter, header=True))
    return 0


@lora_command.command("test")
@_name
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


@lora_command.command("validate")
@_path
@click.option(
    "--model", type=AbsolutePath(), help="The base model's folder; without one, the demo model."
)
@click.option(
    "--max-lora-rank", default=_USUAL_RANK, show_default=True, type=click.IntRange(1), help="Highest rank to accept."
)
@_no_effect
def validate(path: Path, model: Path | None, max_lora_rank: int, allow_no_effect: bool) -> int:
    """Check the adapter in folder PATH as a cluster would before it loads it. No cluster is needed."""
    from cluster.adapters.validation import engine_side  # they read models: not for every start of the command line
    from cluster.adapters.validation import files as adapter_files
    from worker.demo import MODEL_NAME, model_path
    from worker.spec import EngineSpec

    if model and not model.is_dir():
        raise click.UsageError(f"--model {model}: no such folder")
    served, base_path = (str(model), model) if model else (MODEL_NAME, model_path())
    base = adapter_files.read_base(str(base_path))
    side = engine_side.read(EngineSpec(engine="vllm", model=str(base_path), served_names=(served,)))
    try:
        facts = adapter_files.inspect(
            path, base=base, served_names=(served,), max_rank=max_lora_rank, allow_no_effect=allow_no_effect, side=side
        )
    except adapter_files.AdapterRejected as error:
        raise UsageError(str(error)) from None
    say(
        f"ok: rank {facts.rank}, {', '.join(sorted(facts.target_modules))}, {_size(facts.size)}, "
        f"base model {facts.base_model or 'not named'}, content {facts.content_hash[:12]}"
    )
    _say_unchecked(facts.unchecked, err=False)
    return 0


# Changes, and how they are watched.


def _change(url: str | None, name: str, ask: Callable[[ClusterClient], AdapterChanged]) -> int:
    """Asks for a change, shows how it goes, and says in one line what came of it."""
    with client(url) as cluster:
        with _watched(cluster, name):
            result = ask(cluster)
    _say_unchecked(result.get("unchecked") or (), err=True)
    states = list(result.get("instances", {}).values())
    loaded = states.count("loaded")
    what = f"{name}: version {result['version']}"
    if result["state"] == "registered":
        say(f"{what} registered; it is loaded when a worker is ready")
    else:
        count = str(loaded) if loaded == len(states) else f"{loaded} of {len(states)}"
        say(f"{what} on {count} instance{'' if count == '1' else 's'}")
    return 0


@contextlib.contextmanager
def _watched(cluster: ClusterClient, name: str) -> Iterator[None]:
    """Shows what becomes of ``name`` on each instance, on standard error, until the body is done."""
    screen = console(stderr=True)
    before, done = _look(cluster, name), threading.Event()
    with contextlib.ExitStack() as stack:
        show = _print_changes(before)
        if screen.is_terminal:
            show = _drawing(stack.enter_context(Live(console=screen, transient=True, refresh_per_second=8)))

        def watch() -> None:
            while not done.wait(_LOOK_EVERY):
                adapter = _look(cluster, name)
                if not done.is_set():  # what came late must not stand below the result
                    show(adapter)

        thread = threading.Thread(target=watch, name="watch", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(1.0)  # no longer: its last question may wait for an answer that does not come


def _look(cluster: ClusterClient, name: str) -> Mapping[str, Any]:
    """The adapter as it is now; nothing where it is not known yet. Looking must never fail a change."""
    try:
        return cluster.adapter(name)
    except ClusterError:
        return {}


def _drawing(live: Live) -> Callable[[Mapping[str, Any]], None]:
    return lambda adapter: live.update(_instances_table(adapter))


def _print_changes(before: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], None]:
    """A printer of one line for each instance that is not as it was."""
    seen: dict[str, str] = {name: _state_text(i) for name, i in before.get("instances", {}).items()}

    def show(adapter: Mapping[str, Any]) -> None:
        for name, instance in adapter.get("instances", {}).items():
            text = _state_text(instance)
            if seen.get(name) != text:
                say(f"{name}: {text}", err=True)
            seen[name] = text

    return show


def _state_text(instance: Mapping[str, Any]) -> str:
    version, reason = instance.get("version"), instance.get("reason")
    text = instance["state"] if version is None else f"{instance['state']} version {version}"
    return f"{text} ({reason})" if reason else text


def _say_unchecked(sentences: Any, *, err: bool) -> None:
    for sentence in sentences:
        say(f"not checked: {sentence}", err=err)


# Tables.


def _list_table(adapters: Sequence[Mapping[str, Any]]) -> Table:
    instances = list(dict.fromkeys(name for adapter in adapters for name in adapter["instances"]))
    table = plain_table("name", ">version", ">rank", ">size", "state", *instances, ">requests", ">last use")
    for adapter in adapters:
        table.add_row(
            cell(adapter["lora_name"]), cell(adapter["version"]), cell(adapter["rank"]), _size(adapter["size"]),
            cell(adapter["state"]), *(_cell(adapter, instance) for instance in instances),
            cell(adapter.get("requests_total")), _ago(adapter.get("last_used")),
        )
    return table


def _cell(adapter: Mapping[str, Any], instance: str) -> Text:
    """A state; with the version where it is not the active one."""
    found = adapter["instances"].get(instance)
    if found is None:
        return cell("-", "dim")
    version = found.get("version")
    other = "" if version in (None, adapter["version"]) else f" v{version}"
    return cell(found["state"] + other, _STYLES.get(found["state"], ""))


def _versions_table(versions: Sequence[Mapping[str, Any]]) -> Table:
    table = plain_table("", ">version", "content", ">rank", "modules", ">size", ">created", "base model", "source")
    for version in versions:
        table.add_row(
            "*" if version["active"] else "", cell(version["version"]), cell(str(version["hash"])[:12]),
            cell(version["rank"]), cell(", ".join(version["target_modules"])), _size(version["size"]),
            _ago(version["created"]), cell(version["base_model"] or None), cell(version["source"] or None),
        )
    return table


def _instances_table(adapter: Mapping[str, Any], header: bool = False) -> Table:
    table = plain_table("instance", "state", ">version", "reason")
    table.show_header = header
    for name, instance in adapter.get("instances", {}).items():
        state = instance["state"]
        table.add_row(
            cell(name), cell(state, _STYLES.get(state, "")), cell(instance.get("version")),
            cell(instance.get("reason") or "", "dim"),
        )
    return table


def _about(adapter: Mapping[str, Any]) -> Iterator[str]:
    description = adapter.get("description")
    yield f"{adapter['lora_name']}: {description}" if description else adapter["lora_name"]
    loading = "" if adapter["auto_load"] else ", loaded on first use"
    yield (
        f"version {adapter['version']}, {adapter['state']}{loading}, "
        f"{adapter.get('requests_total', 0)} requests, last use {_ago(adapter.get('last_used'))}"
    )


def _base_of(cluster: ClusterClient, name: str) -> str:
    """The served name of the model below ``name``."""
    models: dict[str, str | None] = {model["id"]: model.get("parent") for model in cluster.models()}
    if models.get(name) is None:
        cluster.adapter(name)  # an unknown one is the cluster's to explain
    bases = [model for model, parent in models.items() if parent is None]
    parent = models.get(name)
    if parent in bases:
        return parent
    if not bases:
        raise ClusterError("the cluster lists no base model")
    return bases[0]


def _ago(moment: float | None) -> str:
    return "-" if moment is None else f"{duration(max(0.0, time.time() - moment))} ago"


def _size(size: float | None) -> str:
    if size is None:
        return "-"
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"
