"""The file in which a process writes itself down before it becomes a worker: so whoever comes after a supervisor that
was killed finds it. Its space is taken before anything is started, so that it can be written on a full disk, when
nothing else can.

The first line is the process' own /proc/self/stat; behind it is what its supervisor knows of this start.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from config.disk import files, private
from worker.drivers import proc
from worker.drivers.proc import ProcessId

_NOTES_AT, _SIZE = 1024, 16384


def prepare(path: Path, notes: Mapping[str, Any] | None = None) -> None:
    """Blank, with ``notes`` (those that are there stay without). Raises OSError where there is no room."""
    if notes is not None:
        text = json.dumps(notes).encode()
    else:
        text = private.read(path)[_NOTES_AT:] if path.exists() else b""
    files.rewrite(path, b" " * _NOTES_AT + text, _SIZE)


def read(path: Path) -> ProcessId | None:
    """The process that wrote ``path`` on its way to become a worker, whether it still runs or not."""
    try:
        return proc.parse_stat(private.read(path).decode(errors="replace")).identity
    except (OSError, ValueError, IndexError):
        return None


def notes(path: Path) -> dict[str, Any]:
    """What its supervisor wrote; nothing where there is nothing to be read."""
    try:
        found = json.loads(private.read(path)[_NOTES_AT:])
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
