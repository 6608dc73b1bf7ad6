"""Looking at a running cluster and changing it."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import click
import httpx

from cluster.cli.common import client, finish, model_option, no_wait_option, url_option
from cluster.cli.render import cell, console, say, say_json, status_table
from cluster.client import ClusterClient, ClusterError
from config.text import printable_log, whole
from config.topology import AUTO_STRATEGY, STRATEGIES

#: Seconds until a log that has ended is asked for again.
_AGAIN_S = 0.2


@click.command("status")
@url_option
@click.option("--json", "as_json", is_flag=True, help="The whole status, as the API answers it.")
@click.option("--watch", is_flag=True, help="Again every second, until Ctrl-C.")
def status_command(url: str | None, as_json: bool, watch: bool) -> int:
    """Show what runs."""
    with client(url) as cluster:
        if not watch:
            status = cluster.status()
            if as_json:
                say_json(status)
            else:
                screen = console()
                screen.print(status_table(status, screen.width))
            return 0
        return _watch(cluster, as_json)


def _watch(cluster: ClusterClient, as_json: bool) -> int:
    from rich.live import Live

    if as_json:
        while True:
            click.echo(json.dumps(cluster.status()))
            time.sleep(1.0)
    screen = console()
    with Live(console=screen, refresh_per_second=2) as live:
        while True:
            try:
                live.update(status_table(cluster.status(), screen.width))
            except ClusterError as error:
                live.update(cell(str(error)))
            time.sleep(1.0)


@click.command("scale", context_settings={"ignore_unknown_options": True})
@click.argument("count")
@model_option
@no_wait_option
@url_option
def scale_command(count: str, model: str | None, no_wait: bool, url: str | None) -> int:
    """Run COUNT workers, or +K more, or -K fewer."""
    sign, digits = (count[0], count[1:]) if count[:1] in "+-" else ("", count)
    if not (digits.isascii() and digits.isdigit()) or (sign and int(digits) == 0):
        raise click.UsageError(f"COUNT is a number such as 3, +1 or -1, not {count!r}")
    number = int(digits)
    with client(url) as cluster:
        change = -number if sign == "-" else number
        result = cluster.scale_by(change, model) if sign else cluster.scale(number, model)
        say(f"scaling: {result['current']} ready, {result['desired']} wanted")
        return finish(cluster, no_wait, "done")


@click.command("strategy")
@click.argument("name", type=click.Choice((AUTO_STRATEGY, *STRATEGIES)), metavar="NAME")
@model_option
@url_option
def strategy_command(name: str, model: str | None, url: str | None) -> int:
    """Spread requests by NAME from now on; with --model those for that model, where there are several.

    NAME: auto, round_robin, least_connections, weighted, random, response_time, power_of_two, adaptive,
    adapter_affinity or prefix_affinity."""
    with client(url) as cluster:
        say(f"strategy {cluster.strategy(name, model)['strategy']}")
    return 0


@click.command("restart")
@click.argument("instance", required=False)
@click.option("--rolling", is_flag=True, help="All of them, one at a time, with a spare worker if there is room.")
@click.option("--no-spare", is_flag=True, help="With --rolling: without a spare worker.")
@model_option
@no_wait_option
@url_option
def restart_command(
    instance: str | None, rolling: bool, no_spare: bool, model: str | None, no_wait: bool, url: str | None
) -> int:
    """Restart one INSTANCE, or all of them one at a time (either also ends a drain); `lb` replaces the load
    balancer."""
    if (instance is None) != rolling:
        raise click.UsageError("either an INSTANCE or --rolling is needed")
    if (no_spare or model) and not rolling:
        raise click.UsageError("--no-spare and --model go with --rolling")
    with client(url) as cluster:
        spare_wanted = False if no_spare else None
        result = cluster.restart(instance) if instance else cluster.restart_rolling(spare_wanted, model)
        spare = f"; {result['spare']} stands in meanwhile" if result.get("spare") else ""
        say(f"restarting {', '.join(result['restarting'])}{', one at a time' if rolling else ''}{spare}")
        return finish(cluster, no_wait, "done", only=instance, narrate=rolling)


@click.command("weight")
@click.argument("instance")
@click.argument("weight", type=click.IntRange(0, 1000))
@url_option
def weight_command(instance: str, weight: int, url: str | None) -> int:
    """Give INSTANCE a WEIGHT for the strategy `weighted`."""
    with client(url) as cluster:
        cluster.weight(instance, weight)
    say(f"{instance} has weight {weight}")
    return 0


@click.command("logs")
@click.argument("instance", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on as it is written, until Ctrl-C.")
@click.option("-n", "--lines", default=100, show_default=True, type=click.IntRange(0, 100_000))
@url_option
def logs_command(instance: str | None, follow: bool, lines: int, url: str | None) -> int:
    """Show what INSTANCE (default: every one), `balancer` or `access` (the access log) wrote."""
    with client(url) as cluster:
        status = cluster.status()
        known = [name for name, i in status["instances"].items() if i["managed"]]
        if instance is None and not follow:
            for name in known:
                say(f"==> {name} <==")
                print_log(cluster, name, lines, follow=False)
            return 0
        if instance is None and len(known) != 1:
            return _follow_all(cluster, known, lines)
        print_log(cluster, instance or known[0], lines, follow)
    return 0


def _follow_all(cluster: ClusterClient, names: list[str], lines: int) -> int:
    """Every log at once, each line with the name of its instance."""
    width = max(map(len, names), default=0)

    failed: list[str] = []

    def follow(name: str) -> None:
        try:
            for line in _followed(lambda count: cluster.log_lines(name, count, follow=True), lines, True):
                for part in printable_log(line).split("\n"):
                    say(f"{name:<{width}} | {part}")
        except ClusterError as error:
            failed.append(name)
            say(f"{name}: {error}", err=True)

    threads = [threading.Thread(target=follow, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return 1 if failed else 0


def print_log(cluster: ClusterClient, instance: str, lines: int, follow: bool) -> None:
    for text in whole(_followed(lambda count: _text(cluster, instance, count, follow), lines, follow)):
        click.echo(printable_log(text), nl=False)


def _text(cluster: ClusterClient, instance: str, lines: int, follow: bool) -> Iterator[str]:
    with contextlib.closing(cluster.logs(instance, lines, follow)) as response:
        try:
            yield from response.iter_text()
        except httpx.HTTPError as error:
            raise ClusterError(f"the log of {instance} broke off ({str(error) or type(error).__name__})") from None


def _followed(read: Callable[[int], Iterable[str]], lines: int, follow: bool) -> Iterator[str]:
    """What ``read`` gives of the last ``lines`` and, to ``follow``, of all later ones: a balancer that is replaced ends
    what it sends, and the next one goes on."""
    yield from read(lines)
    while follow:
        time.sleep(_AGAIN_S)
        yield from read(0)
