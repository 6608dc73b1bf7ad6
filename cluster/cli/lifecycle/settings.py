"""`config show`, `config validate`, `config schema` and `config reference`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from cluster.cli.lifecycle.up import given_flags, up_command
from cluster.cli.render import say, say_json
from cluster.deployment import plan
from cluster.deployment.profiles import resolution
from cluster.deployment.setting_changes import SECRET
from config import settings
from config.text import printable


@click.group("config")
def config_command() -> None:
    """Look at the settings a cluster would start with."""


def _show(config: Path | None, engine_args: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Print the settings as flags, environment, files and defaults give them, and where each comes from.

    Options are those of `up`."""
    found = resolution.load(given_flags(options, engine_args), config)
    values = json.loads(found.settings.to_json())
    values |= {name: "(set)" for name in SECRET if values[name]}
    sources = {name: found.source(name) for name in values}
    if as_json:
        both = {name: {"value": value, "source": sources[name]} for name, value in values.items()}
        say_json(both)
        return
    for name, value in values.items():
        meaning = settings.Settings.model_fields[name].description
        click.echo(printable(f"{name}: {json.dumps(value)}  # {sources[name]}; {meaning}"))


config_command.add_command(click.Command(
    "show", callback=_show, help=_show.__doc__,
    params=[
        *(param for param in up_command.params if param.name != "detached"),
        click.Option(["--json", "as_json"], is_flag=True, help="For programs."),
    ],
))  # fmt: skip


@config_command.command("validate")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--config", type=click.Path(path_type=Path), default=None, help="The same as FILE.")
def validate(file: Path | None, config: Path | None) -> None:
    """Check FILE and what it asks of this machine; start nothing."""
    checked = plan.make(resolution.load({}, file or config).settings)
    place = f"{len(checked.placement.machine.gpus)} GPUs" if checked.placement.on_gpu else "no GPU"
    say(
        f"ok: {checked.settings.instances} x {checked.spec.engine}, model {checked.spec.served_names[0]}, "
        f"adapters {', '.join(checked.spec.adapters) or 'none'}, {place}, "
        f"{checked.least} to {checked.most} instances"
    )


@config_command.command("schema")
@click.argument("file", type=click.Choice(["cluster", "models"]))
def schema(file: str) -> None:
    """Print the JSON schema of cluster.yaml or models.yaml (docs/schemas), for editors."""
    from cluster.tools.schemas import SCHEMAS

    say_json(SCHEMAS[file]())


@config_command.command("reference")
def reference() -> None:
    """Print docs/configuration.md: every setting, its flag, its variable and what a change of it does."""
    from cluster.tools.reference import markdown

    flags = {option.name: "/".join([*option.opts, *option.secondary_opts]) for option in up_command.params}
    flags["engine_args"] = "-- …"
    click.echo(markdown(flags.get), nl=False)
