"""Arguments that several commands take, checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from config.disk.absolute import absolute
from config.errors import UsageError
from config.model_names import NAME
from config.values.references import is_reference, parse


def adapter_name(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is None or NAME.fullmatch(value):
        return value
    raise click.BadParameter(f"{value!r} is no adapter name: [A-Za-z0-9._-], 1 to 128 characters", context, parameter)


class FolderOrReference(click.ParamType[str]):
    """A path as `AbsolutePath` makes it, or a reference such as ``hf://org/name`` as it is."""

    name = "source"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            if not is_reference(str(value)):
                return str(absolute(value))
            parse(str(value))
            return str(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class AbsolutePath(click.ParamType[Path]):
    """A path, absolute: the cluster runs in a folder of its own, where what is relative to ours means something
    else."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        try:
            return absolute(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def make_folder(folder: Path) -> None:
    """Before anything is measured: results that cannot be kept are found out late enough otherwise."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder}: {error.strerror}", exit_code=2) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"--out {folder}: not writable", exit_code=2)
