"""State directories as they lie there: no lock is taken and no folder made."""

from __future__ import annotations

import os
from pathlib import Path

from cluster.storage import snapshot_file as state_file
from cluster.storage.schema import SCHEMA
from cluster.tools.doctor.facts import State
from config.disk import private
from config.errors import UsageError
from config.paths import StateDir, default_state_dir
from worker.drivers.local import survivors as living


def look(folder: Path, locks: Path = Path("/proc/locks")) -> State:
    """Never raises."""
    state = StateDir(folder)
    supervisor = holder(state.lock, locks)
    survivors = living(state.runs)
    version, error = None, None
    try:
        if folder.is_dir():
            private.require(folder)
        # A file that somebody writes to cannot be judged from outside; that it is in use says enough.
        if supervisor is None and state.database.exists():
            version = state_file.check(state.database)
        elif folder.exists() and not folder.is_dir():
            error = f"{folder} is no folder"
        elif folder.is_dir() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            error = f"{folder} is somebody else's: it cannot be written"
    except UsageError as failed:
        error = str(failed)
    except OSError as failed:
        error = f"{folder}: {failed.strerror or failed}"
    return State(folder, version, SCHEMA, error, supervisor, survivors)


def others(own: Path | None) -> tuple[State, ...]:
    """Clusters in the usual place that something is left of."""
    try:
        root = default_state_dir(0).parent
        folders = sorted(f for f in root.glob("port-*") if f.is_dir() and f.absolute() != own)
    except (OSError, UsageError):
        return ()
    found = (look(folder) for folder in folders)
    return tuple(state for state in found if state.survivors or state.supervisor)


def holder(lock: Path, locks: Path = Path("/proc/locks")) -> int | None:
    """The pid of the supervisor that holds ``lock``. The kernel's list is read: to try the lock is to take it, and a
    supervisor that starts in that moment would take us for another."""
    try:
        inode = lock.stat().st_ino
        lines = locks.read_text().splitlines()
        held = any(_is_lock(line.split(), inode) for line in lines)
        pid = int(private.read(lock).split()[0]) if held else None
    except (OSError, ValueError, IndexError):
        return None
    return pid


def _is_lock(fields: list[str], inode: int) -> bool:
    return len(fields) >= 6 and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode)
