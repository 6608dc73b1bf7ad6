"""The front of llama.cpp: of the CPU time of a start of a small model, most is what it imports."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def preload() -> None:
    import uvloop  # noqa: F401
    from aiohttp import web  # noqa: F401

    import worker.llamacpp.__main__
    import worker.llamacpp.app
    import worker.llamacpp.engine  # noqa: F401


def obstacle() -> str | None:
    return None


def run(argv: Sequence[str]) -> int | None:
    from worker.llamacpp.__main__ import main

    sys.argv = list(argv[2:])
    return main()
