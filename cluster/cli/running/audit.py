"""`audit`: who changed what, and who was refused."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import click

from cluster.cli.common import client, url_option
from cluster.cli.render import say


@click.command("audit")
@click.option("-n", "--number", default=20, show_default=True, type=click.IntRange(1, 1000), help="So many at most.")
@click.option("--before", type=click.IntRange(1), metavar="ID", help="Those before this one.")
@click.option("--verify", is_flag=True, help="Also whether none was changed or taken out since it was written.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@url_option
def audit_command(number: int, before: int | None, verify: bool, as_json: bool, url: str | None) -> int:
    """Show who changed what, when and from where, and who was refused; the latest last.

    Each row is sealed with a hash over itself and the row before."""
    with client(url) as cluster:
        found = cluster.audit(number, before=before, verify=verify)
    for entry in reversed(found["entries"]):
        if as_json:
            click.echo(json.dumps(entry))
        else:
            for line in told(entry):
                say(line)
    if not verify:
        return 0
    broken = found.get("broken_at")
    say("the chain holds" if broken is None else f"the chain is broken at {broken}", err=broken is not None)
    return 0 if broken is None else 1


def told(entry: Mapping[str, Any]) -> list[str]:
    """For people."""
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry["at"]))
    where = f" from {entry['from']}" if entry.get("from") else ""
    what = f"{entry.get('method', '')} {entry.get('path', '')} {entry.get('status', '')}".strip()
    if "reason" in entry:
        return [f"{entry['id']}  {at}  refused{where}: {what} ({entry['reason']}) x {entry['count']}"]
    lines = [f"{entry['id']}  {at}  {entry['who'] or 'nobody'}{where}: {what}"]
    lines += [f"      {c['what']}: {json.dumps(c['before'])} -> {json.dumps(c['after'])}" for c in entry["changed"]]
    return lines
