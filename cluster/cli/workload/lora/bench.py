"""`lora bench`: how long an adapter takes to load, to answer and to go."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import click
from rich.table import Table

from cluster.cli.arguments import AbsolutePath, adapter_name
from cluster.cli.common import client, url_option
from cluster.cli.render import console, plain_table, say
from cluster.cli.streams import end, ending_signals, handling
from cluster.client import ClusterClient, ClusterError
from cluster.tools.bench.stats import summary
from config.errors import UsageError

_NAME, _ADAPTER = "bench-lora", "pirate"

_SHOWN = {"mean": "mean", "median": "p50", "p95": "p95"}


@click.command("bench")
@click.argument("name", required=False, callback=adapter_name)
@click.argument("path", required=False, type=AbsolutePath())
@click.option("--cycles", default=10, show_default=True, type=click.IntRange(1), help="Times to load and unload it.")
@url_option
def bench(name: str | None, path: Path | None, cycles: int, url: str | None) -> int:
    """Measure loading, the first token and unloading of the adapter in folder PATH, as NAME while it lasts.

    Without arguments: an adapter of the demo model."""
    from worker.demo import adapter_path

    if (name is None) != (path is None):
        raise click.UsageError("both NAME and PATH are needed, or none of them")
    name, path = name or _NAME, path or adapter_path(_ADAPTER)
    with client(url) as cluster:
        _require_unused(cluster, name)
        with handling(dict.fromkeys({*ending_signals()} - {signal.SIGINT}, end)), _cleaned_up(cluster, name):
            times = [_cycle(cluster, name, path) for _ in range(cycles)]
    console().print(_table(times))
    return 0


def _require_unused(cluster: ClusterClient, name: str) -> None:
    """What is unloaded in the end must be nobody's."""
    try:
        cluster.adapter(name)
    except ClusterError as error:
        if error.status == 404:
            return
        raise
    raise UsageError(f"{name}: the cluster has an adapter of that name; bench needs one that it may unload")


def _cycle(cluster: ClusterClient, name: str, path: Path) -> tuple[float, float, float]:
    """Seconds to load, to the first token and to unload."""
    begun = time.monotonic()
    if cluster.load_adapter(name, path)["state"] == "registered":
        raise ClusterError("no worker is ready: there is nothing to measure")
    loaded = time.monotonic()
    first = cluster.first_token(name, "Once upon a time")
    unloading = time.monotonic()
    cluster.unload_adapter(name)
    return loaded - begun, first, time.monotonic() - unloading


@contextlib.contextmanager
def _cleaned_up(cluster: ClusterClient, name: str) -> Iterator[None]:
    """Whatever ends the body before its last unload, the cluster does not keep ``name``."""
    done = False
    try:
        yield
        done = True
    finally:
        if not done:
            try:
                cluster.unload_adapter(name)
            except ClusterError as error:
                if error.status != 404:
                    say(f"{name} may still be loaded: {error}", err=True)


def _table(times: list[tuple[float, float, float]]) -> Table:
    table = plain_table("", *(f">{name} ms" for name in _SHOWN.values()))
    for what, column in zip(("load", "first token", "unload"), zip(*times, strict=True), strict=True):
        if figures := summary(column):
            table.add_row(what, *(f"{figures[figure] * 1000:.1f}" for figure in _SHOWN))
    return table
