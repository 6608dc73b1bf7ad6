"""What somebody has given, and where: for messages, and for `clusterctl config show`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from config.sources.names import variables


@dataclass(frozen=True, slots=True)
class Given:
    """``flags`` by setting; ``in_file``: what stands in the YAML file ``config``; ``variables``: what stands in
    ``env_file``, which by now are in the environment, too, unless that had others. ``environment``: whether that
    counts. ``by_mode``: settings that are as the inference mode, which was given in ``mode``, has them."""

    flags: Mapping[str, Any] = field(default_factory=dict)
    in_file: Mapping[str, Any] = field(default_factory=dict)
    config: Path | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    env_file: Path | None = None
    environment: bool = True
    mode: str | None = None
    by_mode: frozenset[str] = frozenset()

    def source(self, setting: str) -> str | None:
        """Where ``setting`` was given: a flag, a variable, the file. None: nowhere."""
        if setting in self.by_mode:
            return self.mode
        if setting in self.flags:
            return f"--{setting.replace('_', '-')}"
        if self.environment and (variable := variable_of(setting)):
            return self.named(variable)
        return f"{self.config}: {setting}" if setting in self.in_file else None

    def named(self, variable: str) -> str:
        """A variable that is set, by where it was."""
        if self.env_file is not None and self.variables.get(variable) == os.environ.get(variable):
            return f"{self.env_file}: {variable}"
        return f"environment {variable}"


def variable_of(setting: str) -> str | None:
    """The environment variable that gives ``setting``, if one does."""
    return next((name for name in variables(setting) if os.environ.get(name)), None)
