"""The process of a zygote, as its supervisor sees it: asked whether it has imported everything, found again, ended."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from config.paths import StateDir
from worker.drivers import forked, run_file
from worker.drivers import zygote_protocol as protocol
from worker.drivers.process import Process, find
from worker.spec import Fork

#: Names of their run files, sockets and logs: this, or this and a number.
PREFIX = "zygote"

#: Seconds between two tries to connect to one that does not listen yet.
_AGAIN_S = 0.05


def key_of(fork: Fork) -> str:
    """By which one is known again: what it imports, in which environment, by which interpreter."""
    text = json.dumps([fork.module, fork.environment, sys.executable])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def left(state: StateDir) -> dict[str, tuple[str, Process]]:
    """Those of an earlier supervisor that live: by name, what they were started for."""
    found = {}
    with contextlib.suppress(OSError):
        for path in state.runs.glob(f"{PREFIX}*"):
            key = run_file.notes(path).get("zygote")
            process = find(None, path) if isinstance(key, str) else None
            if process is not None and not process.empty():
                found[path.name] = (str(key), process)
    return found


async def end_left(state: StateDir) -> None:
    """Ends all that there are, also those of a supervisor that is gone."""
    for name, (_, process) in (await asyncio.to_thread(left, state)).items():
        await end(state, name, process)


async def end(state: StateDir, name: str, process: Process) -> None:
    """Its workers go on."""
    await kill(process)
    state.run(name).unlink(missing_ok=True)
    (state.root / f"{name}.sock").unlink(missing_ok=True)


async def kill(process: Process) -> None:
    while await asyncio.to_thread(process.kill_tree):
        await asyncio.sleep(0.02)


async def ask(path: Path) -> dict[str, Any] | None:
    """What the zygote that listens there, or is going to, says of itself once it has imported everything; None where it
    ends before."""
    while True:
        try:
            connection = forked.connect(path, 1.0)
            break
        except OSError:
            await asyncio.sleep(_AGAIN_S)
    loop = asyncio.get_running_loop()
    with connection:
        connection.setblocking(False)
        try:
            await loop.sock_sendall(connection, protocol.encode({"ask": "who"}))
            return protocol.decode(await loop.sock_recv(connection, protocol.MOST))
        except (OSError, ValueError):
            return None
