"""The folder of an agent: who it is, and that there is one only."""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import json
import os
from collections.abc import Iterator
from pathlib import Path

from config.disk import private
from worker.drivers import proc
from worker.drivers.proc import ProcessId
from worker.drivers.remote.protocol import AgentAddress

FILE = "agent.json"


def read(root: Path, key: str) -> AgentAddress | None:
    """Where the agent of this home listens; None where none runs, or one with another key."""
    found = running(root)
    return found if found is not None and hmac.compare_digest(found.key.encode(), key.encode()) else None


def running(root: Path) -> AgentAddress | None:
    """As `read`, whatever its key is."""
    try:
        found = json.loads(private.read(root / FILE))
        alive = proc.alive(ProcessId(found["pid"], found["start_ticks"]))
        return AgentAddress(str(found["host"]), int(found["port"]), str(found["key"])) if alive else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """One at a time makes an agent there."""
    descriptor = private.descriptor(root / "agent.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
