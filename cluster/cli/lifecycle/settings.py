"""`config show`, `config validate` and `config reference`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from cluster.cli.render import say
from cluster.deployment import plan
from cluster.deployment.setting_changes import SECRET
from config import settings


@click.group("config")
def config_command() -> None:
    """Look at the settings a cluster would start with."""


@config_command.command("show")
@click.option("--config", type=click.Path(path_type=Path), default=None, help="A YAML file with settings.")
def show(config: Path | None) -> None:
    """Print the settings as flags, environment, file and defaults give them."""
    values = json.loads(settings.load({}, config).to_json())
    values |= {name: "(set)" for name in SECRET if values[name]}
    for name, value in values.items():
        meaning = settings.Settings.model_fields[name].description
        click.echo(f"{name}: {json.dumps(value)}  # {meaning}")


@config_command.command("validate")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--config", type=click.Path(path_type=Path), default=None, help="The same as FILE.")
def validate(file: Path | None, config: Path | None) -> None:
    """Check FILE and what it asks of this machine; start nothing."""
    checked = plan.make(settings.load({}, file or config))
    place = f"{len(checked.placement.machine.gpus)} GPUs" if checked.placement.on_gpu else "no GPU"
    say(
        f"ok: {checked.settings.instances} x {checked.spec.engine}, model {checked.spec.served_names[0]}, "
        f"adapters {', '.join(checked.spec.adapters) or 'none'}, {place}, "
        f"{checked.least} to {checked.most} instances"
    )


@config_command.command("reference")
def reference() -> None:
    """Print docs/configuration.md: every setting, its flag, its variable and what a change of it does."""
    from cluster.cli.lifecycle.up import up_command
    from cluster.tools.reference import markdown

    flags = {option.name: "/".join([*option.opts, *option.secondary_opts]) for option in up_command.params}
    flags["engine_args"] = "-- …"
    click.echo(markdown(flags.get), nl=False)
