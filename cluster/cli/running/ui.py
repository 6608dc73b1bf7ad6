"""`ui`: the page, without a key typed into it."""

from __future__ import annotations

import json
import os
import webbrowser
from pathlib import Path

import click

from cluster.cli.common import client, url_option
from cluster.client.core import root_of
from config.paths import default_state_dir
from config.sources.commands import cluster_port, cluster_url


@click.command("ui")
@click.option("--open", "opened", is_flag=True, help="Open it in this machine's browser instead of printing it.")
@url_option
def ui_command(opened: bool, url: str | None) -> int:
    """Print a link to the page that works once, within a minute, and needs no key."""
    where = url or cluster_url()
    with client(where) as cluster:
        link = cluster.ui_link()
    target = f"{root_of(where)}/ui/#code={link['code']}"
    if not opened or not _open(target, default_state_dir(cluster_port(where)).parent):
        click.echo(target)
    return 0


def _open(target: str, folder: Path) -> bool:
    """By way of a file that only we can read: everybody sees the command lines of a machine, and so what a browser is
    started with."""
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / "open.html"
    file.unlink(missing_ok=True)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as page:
        page.write(f"<!doctype html><title>clusterctl</title><script>location.replace({json.dumps(target)})</script>\n")
    return browser.open(file.as_uri())
