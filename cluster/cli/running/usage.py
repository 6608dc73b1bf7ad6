"""`usage`: what each key has taken of each model."""

from __future__ import annotations

import csv
import io
from typing import Any

import click

from cluster.cli.common import client, json_option, url_option
from cluster.cli.render import cell, console, plain_table, say_json
from config.text import printable

_COUNTS = ("requests", "prompt_tokens", "cached_tokens", "completion_tokens")


@click.command("usage")
@click.option("--by", default="key,model", show_default=True, metavar="A,B", help="Some of key, model, day.")
@click.option("--from", "begin", metavar="DAY", help="The first day (UTC), as 2026-01-31; default 30 days ago.")
@click.option("--to", "end", metavar="DAY", help="The last one; default today.")
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated values, with a head.")
@json_option
@url_option
def usage_command(
    by: str, begin: str | None, end: str | None, as_csv: bool, as_json: bool, url: str | None
) -> int:
    """Show requests and tokens of requests with API keys; cached tokens are some of those of prompts."""
    with client(url) as cluster:
        found = cluster.usage(by.split(","), begin, end)
    if as_json:
        return say_json(found)
    groups, rows = found["by"], [dict[str, Any](row) for row in found["usage"]]
    for row in rows:
        row.update((name, printable(str(row[name]))) for name in groups)
    if as_csv:
        text = io.StringIO()
        writer = csv.DictWriter(text, [*groups, *_COUNTS], lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        click.echo(text.getvalue(), nl=False)
        return 0
    table = plain_table(*groups, *(f">{name.replace('_', ' ')}" for name in _COUNTS))
    for row in rows:
        table.add_row(*(cell(row[name]) for name in groups), *(cell(f"{row[name]:,}") for name in _COUNTS))
    console().print(table)
    return 0
