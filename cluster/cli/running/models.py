"""`model`: the models of a cluster."""

from __future__ import annotations

import click

from cluster.cli.lifecycle.profiles import profiles_command


@click.group("model")
def model_command() -> None:
    """Look at models."""


model_command.add_command(profiles_command)
