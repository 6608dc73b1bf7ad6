"""Where agents listen, kept for a supervisor that comes when nobody else can say it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from config.disk import private
from config.disk.files import replacing
from worker.drivers.remote.protocol import AgentAddress


def remember(path: Path | None, nodes: Mapping[str, AgentAddress]) -> None:
    """Not on a full disk."""
    if path is not None:
        with contextlib.suppress(OSError), replacing(path) as file:
            file.write(json.dumps({name: [one.host, one.port] for name, one in nodes.items()}).encode())


def remembered(path: Path | None, key: str) -> dict[str, AgentAddress]:
    """Nothing of a file that is none."""
    try:
        found = json.loads(private.read(path)) if path is not None else {}
        return {str(name): AgentAddress(str(host), int(port), key) for name, (host, port) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
