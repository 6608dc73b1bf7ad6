"""What the file of an engine has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Forkable(Protocol):
    """A module with these functions."""

    def preload(self) -> None:
        """Imports in the zygote whatever a worker would."""

    def obstacle(self) -> str | None:
        """Why the zygote as it is now must not be forked, in words."""

    def run(self, argv: Sequence[str]) -> int | None:
        """In a fork: does what the command ``argv`` would, in the environment that is already that of the worker.
        Returns its exit status, as `sys.exit` takes it."""
