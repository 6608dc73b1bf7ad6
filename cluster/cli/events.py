"""`events`: what happened, and what happens."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from cluster.cli.common import client, url_option
from cluster.client import ClusterClient, ClusterError

#: Seconds until a stream that ended is opened again.
_AGAIN = 0.5


@click.command("events")
@click.option("-f", "--follow", is_flag=True, help="Go on as they come, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("-n", "--number", default=20, show_default=True, type=click.IntRange(0, 1000), help="So many of before.")
@url_option
def events_command(follow: bool, as_json: bool, number: int, url: str | None) -> int:
    """Show what happened to the cluster, each with its reason."""
    with client(url) as cluster:
        before = cluster.events(max(1, number))
        for event in before if number else ():
            _show(event, as_json)
        if follow:
            _follow(cluster, before[-1]["id"] if before else 0, as_json)
    return 0


def _follow(cluster: ClusterClient, last: int, as_json: bool) -> None:
    """All after the event ``last``, over the ends of balancers, without a gap."""
    told = False
    while True:
        try:
            with cluster.listen(last) as events:
                told = False
                for event in events:
                    last = event["id"]
                    _show(event, as_json)
        except ClusterError as error:
            if error.status not in (None, 503):
                raise
            if not told:
                click.echo(f"{error}; trying again", err=True)
            told = True
        time.sleep(_AGAIN)


def _show(event: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(event))
        return
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["at"]))
    click.echo(f"{at}  {event['text']}")
