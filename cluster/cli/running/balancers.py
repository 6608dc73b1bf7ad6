"""`balancer`: balancers of this cluster on other machines."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from cluster.cli.arguments import AbsolutePath
from cluster.cli.common import client, json_option, state_dir_option, url_option
from cluster.cli.render import cell, console, duration, plain_table, say, say_json
from config.errors import UsageError
from config.paths import StateDir
from config.sources.commands import own_state_dir

if TYPE_CHECKING:
    from cluster.joining.options import JoinOptions

_TOKEN_VARIABLE = "CLUSTERCTL_JOIN_TOKEN"

_port_option = click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Port on which they listen."
)


@click.group("balancer", invoke_without_command=True)
@click.option("--join", metavar="URL", help="Serve the cluster that listens there, https://HOST:PORT, from here too.")
@click.option("--token", envvar=_TOKEN_VARIABLE, metavar="TOKEN",
              help=f"Of `balancer token`, for the first time; or {_TOKEN_VARIABLE}, which nobody else can read.")
@click.option("--name", metavar="NAME", help="What this machine is called; default its host name.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on for clients.")
@_port_option
@click.option("--grpc-port", type=click.IntRange(1, 65535), help="Another one, on which gRPC is spoken; default none.")
@click.option("--processes", default=1, show_default=True, type=click.IntRange(1, 64), help="Balancer processes.")
@click.option("--tls-cert", type=AbsolutePath(), help="PEM file with the certificate (chain) of that port.")
@click.option("--tls-key", type=AbsolutePath(), help="PEM file with its private key.")
@click.option("--tls-client-ca", type=AbsolutePath(), help="PEM file of authorities whose certificates clients need.")
@click.option("--insecure", is_flag=True, help="Listen for other machines although nobody needs a key.")
@state_dir_option
@click.option("--detach", "detached", is_flag=True, help="Return once they serve.")
def balancer_command(join: str | None, token: str | None, detached: bool, **options: Any) -> int:
    """Balancers on other machines: with --join this machine becomes one, until Ctrl-C or `balancer down`."""
    if click.get_current_context().invoked_subcommand is not None:
        return 0
    if join is None:
        raise UsageError("--join URL is needed, or a command: see --help", exit_code=2)
    made = _options(join, token, options)
    if detached:
        from cluster.cli.lifecycle.joined import start

        return start(made)
    from cluster.joining.runtime import run

    run(made)
    return 0


def _options(join: str, token: str | None, options: dict[str, Any]) -> JoinOptions:
    """Raises UsageError."""
    from cluster.joining.options import JoinOptions
    from config.topology import TlsFiles

    cert, key, authorities = options["tls_cert"], options["tls_key"], options["tls_client_ca"]
    if (cert is None) != (key is None) or (authorities and not cert):
        raise UsageError("TLS needs --tls-cert and --tls-key", exit_code=2)
    tls = None if cert is None else TlsFiles(str(cert), str(key), str(authorities) if authorities else None)
    return JoinOptions(
        _state(options["state_dir"], options["port"]), _supervisor(join), token,
        options["name"] or socket.gethostname(), options["host"], options["port"], options["processes"], tls,
        options["insecure"], options["grpc_port"],
    )  # fmt: skip


def _supervisor(url: str) -> tuple[str, int]:
    """Raises UsageError."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme != "https" or not parts.hostname or port is None or parts.path.strip("/"):
        raise UsageError(f"--join {url}: https://HOST:PORT is needed, as `balancer token` shows it", exit_code=2)
    return parts.hostname, port


def _state(given: Path | None, port: int) -> StateDir:
    return StateDir(given or own_state_dir(port))


@balancer_command.command("status")
@_port_option
@state_dir_option
@json_option
def status(port: int, state_dir: Path | None, as_json: bool) -> int:
    """Show the balancers of this machine that have joined."""
    from cluster.cli.lifecycle import joined

    return joined.status(_state(state_dir, port), as_json)


@balancer_command.command("down")
@_port_option
@state_dir_option
@click.option("--now", is_flag=True, help="Do not wait for running requests.")
@click.option("--no-wait", is_flag=True, help="Return at once; the end goes on.")
def down(port: int, state_dir: Path | None, now: bool, no_wait: bool) -> int:
    """End the balancers of this machine that have joined, also what a crash left; the cluster goes on."""
    from cluster.cli.lifecycle import joined

    return joined.down(_state(state_dir, port), now, no_wait)


@balancer_command.command("token")
@click.option("--ttl", default="1h", show_default=True, metavar="1h", help="For how long it lets machines join.")
@click.option("--revoke", metavar="ID", help="Instead: let nobody join by that token any more.")
@url_option
def token(ttl: str, revoke: str | None, url: str | None) -> int:
    """Make a token by which machines join, and show it, this once."""
    with client(url) as cluster:
        if revoke is not None:
            cluster.revoke_join_token(revoke)
            say(f"{revoke} is revoked; machines that have joined stay")
            return 0
        made = cluster.create_join_token(ttl)
    say(f"{made['id']}: on another machine, within {ttl}: clusterctl balancer --join https://THIS-HOST:"
        f"{made['port']} --token …", err=True)  # fmt: skip
    click.echo(made["token"])
    return 0


@balancer_command.command("list")
@json_option
@url_option
def list_balancers(as_json: bool, url: str | None) -> int:
    """Show the machines that have joined."""
    with client(url) as cluster:
        found = cluster.joined_balancers()
    if as_json:
        return say_json(found)
    table = plain_table("machine", "state", "address", ">in flight", ">joined")
    for each in found:
        state = cell("connected") if each["connected"] else cell("away", "red")
        table.add_row(
            cell(each["name"]), state, cell(each["address"] or "-"), cell(each["in_flight"]),
            cell(f"{duration(each['age_s'])} ago"),
        )  # fmt: skip
    console().print(table)
    return 0


@balancer_command.command("evict")
@click.argument("name")
@url_option
def evict(name: str, url: str | None) -> int:
    """Take a machine out: it is told nothing more, and its balancers end."""
    with client(url) as cluster:
        cluster.evict_balancer(name)
    say(f"{name} is evicted")
    return 0
