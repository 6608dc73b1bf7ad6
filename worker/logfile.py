"""Log files of workers: rotated by copy and truncate (the writer keeps its descriptor), read from the end."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from config.disk import private
from config.text import printable

ROTATE_BYTES = 16 * 1024 * 1024
KEEP = 3


def rotate(path: Path, limit: int = ROTATE_BYTES, keep: int = KEEP) -> bool:
    """Moves a file of more than ``limit`` bytes to ``.1`` (that to ``.2`` …) and empties it. What is written
    between copy and truncate is lost: the price for never making the writer reopen. True if it rotated; on a
    full disk it does not."""
    try:
        if path.stat().st_size <= limit:
            return False
    except FileNotFoundError:
        return False
    copy = path.with_name(f"{path.name}.new")
    try:
        with private.open_file(path) as source, private.open_file(copy, "wb") as target:
            shutil.copyfileobj(source, target)
    except OSError:
        copy.unlink(missing_ok=True)  # no room for a copy: what there is stays
        return False
    for number in range(keep, 1, -1):
        older = path.with_name(f"{path.name}.{number - 1}")
        if older.exists():
            older.replace(path.with_name(f"{path.name}.{number}"))
    copy.replace(path.with_name(f"{path.name}.1"))
    os.truncate(path, 0)
    return True


def rotate_all(paths: Iterable[Path]) -> None:
    """Those of them that have grown long, and can be rotated."""
    for path in paths:
        with contextlib.suppress(OSError):
            rotate(path)


def tail(path: Path, lines: int, most_bytes: int = 64 * 1024) -> list[str]:
    """The last ``lines`` lines, from at most the last ``most_bytes`` bytes; nothing where there is no file."""
    if lines < 1:
        return []
    try:
        with private.open_file(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most_bytes))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return []
    return text.splitlines()[-lines:]


def note(path: Path, text: str) -> None:
    """A line of ours between a worker's own: which start the lines after it belong to. Not written on a full disk."""
    with contextlib.suppress(OSError):
        with private.open_file(path, "ab") as file:
            file.write(f"--- {printable(text)}\n".encode())
            os.fchmod(file.fileno(), 0o600)
