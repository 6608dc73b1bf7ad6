"""The folders of jobs that have ended: kept as long as they are remembered and there is room. Blocking."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

#: Bytes of all folders of jobs that have ended.
MOST_BYTES = 2 << 30


def sweep(root: Path, ended: Sequence[str], open_jobs: Collection[str], most: int = MOST_BYTES) -> None:
    """Removes every folder in ``root`` but those of ``open_jobs`` and, of those of ``ended`` (the oldest first), the
    latest that have ``most`` bytes together. What cannot be removed is left."""
    kept = {*ended, *open_jobs}
    with contextlib.suppress(OSError):
        for path in root.iterdir():
            if path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
    total = 0
    for name in reversed(ended):
        total += _size(root / name)
        if total > most:
            shutil.rmtree(root / name, ignore_errors=True)


def _size(folder: Path) -> int:
    """Bytes on the disk; links are not followed."""
    found = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found += (Path(path) / name).lstat().st_blocks * 512
    return found
