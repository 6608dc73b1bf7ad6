"""Where adapters may come from."""

from __future__ import annotations

from pathlib import Path

from worker import demo


def allowed_roots(given: tuple[Path, ...]) -> tuple[Path, ...]:
    """Folders, of which one has to hold an adapter; none: it may lie anywhere. Those of the demo model are ours."""
    return (*given, *demo.adapters().values()) if given else ()
