"""`events`: what happened, and what happens."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import click

from cluster.cli.common import client, url_option
from cluster.cli.render import say
from cluster.client import ClusterError


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
            for event in cluster.follow(before[-1]["id"] if before else 0, trouble=_tell):
                _show(event, as_json)
    return 0


def _tell(error: ClusterError) -> None:
    say(f"{error}; trying again", err=True)


def _show(event: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(event))
        return
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["at"]))
    say(f"{at}  {event['text']}")
