"""Arguments that several commands take, checked."""

from __future__ import annotations

from pathlib import Path

import click

from config.settings import NAME


def adapter_name(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is None or NAME.fullmatch(value):
        return value
    raise click.BadParameter(f"{value!r} is no adapter name: [A-Za-z0-9._-], 1 to 128 characters", context, parameter)


def absolute(context: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
    """The cluster runs in a folder of its own: what is relative to ours must not be sent as it is."""
    try:
        return value and value.expanduser().absolute()
    except RuntimeError as error:
        raise click.BadParameter(str(error), context, parameter) from None
