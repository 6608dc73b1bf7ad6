"""`drain` and `apply`: planned changes of a running cluster."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cluster.cli.common import PATIENCE, WHERE, Finite, client, finish, no_wait_option, url_option
from cluster.cli.lifecycle.up import given_flags, up_command
from cluster.cli.render import change_table, console, say, say_json
from cluster.client import ClusterClient, ClusterError
from cluster.deployment.profiles import resolution
from config.disk import locations
from config.errors import UsageError
from config.settings import Effect, read_yaml

_LOOK_EVERY = 0.2

#: Of the options of `up`, those that are no settings of the cluster.
_NOT_SETTINGS = {"config", "detached", "engine_args"}


@click.command("drain")
@click.argument("instance")
@click.option("--undo", is_flag=True, help="Back into rotation.")
@click.option(
    "--grace", type=Finite(0), metavar="S", help="Seconds for what runs (default: the drain timeout)."
)
@no_wait_option
@url_option
def drain_command(instance: str, undo: bool, grace: float | None, no_wait: bool, url: str | None) -> int:
    """Take INSTANCE out of rotation: nothing new, what runs may finish, the rest goes on elsewhere.

    It goes on running, and counts as one of the workers, until `drain --undo`, `restart` or `scale` says otherwise."""
    if undo and grace is not None:
        raise click.UsageError("--grace does not go with --undo")
    with client(url) as cluster:
        if undo:
            cluster.undrain(instance)
            say(f"{instance} is back in rotation")
            return 0
        answer = cluster.drain(instance, grace)
        say(f"draining {instance}: {answer['grace']:g} s for what runs")
        if not answer["ready"]:
            say("note: nobody else is ready, so requests fail until somebody is", err=True)
        return 0 if no_wait else _wait_drained(cluster, instance)


def _wait_drained(cluster: ClusterClient, instance: str) -> int:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        status = cluster.status()
        seen = status["instances"].get(instance)
        state = seen["state"] if seen else "gone"
        if state not in ("ready", "unhealthy", "draining"):
            say(f"{instance} is {state}")
            return 0
        if status["supervisor"]["pid"] is None:
            raise ClusterError("the supervisor is gone; run `up` again: the drain goes on with it")
        time.sleep(_LOOK_EVERY)
    raise ClusterError(f"not done after {PATIENCE:g} s; it goes on in the background")


def _apply(
    config: Path | None, default: tuple[str, ...], previous: bool, dry_run: bool, as_json: bool, no_spare: bool,
    no_wait: bool, url: str | None, engine_args: tuple[str, ...], **options: Any,
) -> int:
    """Change the settings of a running cluster. Options are those of `up`; what is not named stays as it is (a default
    that is shown is that of a new cluster).

    Names come from flags, then from --config; the environment is not asked. What follows -- replaces all of the
    engine's own flags. Each change is shown with what it does; workers are restarted one at a time."""
    settings = _sendable(read_yaml(config), config) if config else {}
    settings |= _sendable(given_flags(options, engine_args))
    if settings.get("model") or settings.get("models") or settings.get("engine") == "auto":
        settings = resolution.applied(settings)
    defaults = [name.strip().replace("-", "_") for name in default]
    if previous and (settings or defaults):
        raise click.UsageError("--previous goes without other settings")
    if not (settings or defaults or previous):
        raise click.UsageError("no settings are given: flags as for `up`, --config, --default or --previous")
    spare = False if no_spare else None
    with client(url) as cluster:
        answer = cluster.apply(
            settings, defaults=defaults, previous=previous, dry_run=dry_run, spare=spare
        )
    if as_json:
        say_json(answer)
    else:
        _show(answer)
    if answer["refused"]:
        say(f"error: {answer['refused']}", err=True)
        return 1
    if dry_run or not answer["changes"]:
        return 0
    with _client_after(url, settings) as cluster:
        code = finish(cluster, no_wait, "done", narrate=bool(answer["restarting"]))
    if code:
        say("`clusterctl apply --previous` goes back to the settings before", err=True)
    return code


def _show(answer: Mapping[str, Any]) -> None:
    if not answer["changes"]:
        say("nothing to change: the cluster runs with these settings")
        return
    console().print(change_table(answer["changes"]))
    if answer["restarting"]:
        spare = f"; {answer['spare']} stands in meanwhile" if answer["spare"] else ""
        say(f"restarting {', '.join(answer['restarting'])}, one at a time{spare}")
    elif answer["dry_run"]:
        say("a dry run: nothing was changed")


def _client_after(url: str | None, settings: dict[str, Any]) -> ClusterClient:
    """With the admin key that holds from now on."""
    key = settings.get("admin_key")
    return client(url, str(key) if key else None)


def _sendable(settings: dict[str, Any], file: Path | None = None) -> dict[str, Any]:
    """With paths that mean the same to the cluster, which runs elsewhere; those of a ``file`` begin in its folder."""
    sent: dict[str, Any] = {}
    for name, value in settings.items():
        try:
            found = locations.setting(name, value, file and file.absolute().parent)
        except ValueError as error:
            raise UsageError(f"{file or '--' + name.replace('_', '-')}: {error}", exit_code=2) from None
        sent[name] = str(found) if isinstance(found, Path) else found
        if isinstance(found, tuple):
            sent[name] = [str(folder) if isinstance(folder, Path) else folder for folder in found]
    return sent


_EFFECTS = ", ".join(f"`{effect}`" for effect in Effect)

apply_command = click.Command(
    "apply",
    callback=_apply,
    help=_apply.__doc__,
    epilog=f"What a change does is one of: {_EFFECTS}.",
    params=[
        click.Option(["--dry-run"], is_flag=True, help="Show what would change and how; change nothing."),
        click.Option(["--previous"], is_flag=True, help="Back to the settings that the last apply replaced."),
        click.Option(
            ["--default"], multiple=True, metavar="NAME", help="This setting as if nobody had given it; repeatable."
        ),
        click.Option(["--no-spare"], is_flag=True, help="Restart without a spare worker."),
        click.Option(["--json", "as_json"], is_flag=True, help="The answer of the API."),
        click.Option(["--no-wait"], is_flag=True, help="Return at once; the change goes on."),
        *(click.Option([name], **how) for name, how in WHERE.items()),
        click.Option(["--config"], type=click.Path(path_type=Path), help="A YAML file with settings."),
        *(p for p in up_command.params if p.name not in _NOT_SETTINGS),
        *(p for p in up_command.params if p.name == "engine_args"),
    ],
)
