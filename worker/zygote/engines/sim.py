"""The simulated worker: for what is tested of zygotes, which needs no real engine."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def preload() -> None:
    import worker.sim.__main__  # noqa: F401


def obstacle() -> str | None:
    return None


def run(argv: Sequence[str]) -> int | None:
    from worker.sim.__main__ import main

    sys.argv = list(argv[2:])
    return main()
