"""One balancer process, started by the supervisor.

``python -m lb FILE``: with what FILE says. ``python -m lb --standby FD``: has imported everything, says so on the
socket FD, and waits there for a line that says the same; it ends when there is nobody at the other end any more.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import socket
import sys
from pathlib import Path
from typing import Any

import uvloop

from config import logs
from config.disk import private
from config.topology import BalancerConfig
from lb.app import serve
from lb.limits import raise_open_files


def main() -> None:
    raise_open_files()
    # What was imported stays: the collector need not look at it again. What a request makes is freed by its count.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    start = _wait(int(sys.argv[2])) if sys.argv[1] == "--standby" else json.loads(private.read(Path(sys.argv[1])))
    if start is None:
        return
    link, log = Path(start.pop("link")), start.pop("log", None)
    known = start.pop("set", None), start.pop("snapshot", None), start.pop("keys", None)
    if log is not None:
        _write_to(Path(log))
    config = BalancerConfig.from_json(start)
    logs.set_up(config.log_format, config.log_level)
    uvloop.run(serve(config, link, *known))


def _wait(descriptor: int) -> dict[str, Any] | None:
    """What to start with; None if the supervisor is gone, or does not need it any more."""
    with socket.socket(fileno=descriptor) as channel, channel.makefile("rb") as lines:
        with contextlib.suppress(OSError):  # whoever needed it before it was ready has said so, and does not listen
            channel.sendall(b"ready\n")
        try:
            line = lines.readline()
        except OSError:
            return None
    return json.loads(line) if line.endswith(b"\n") else None


def _write_to(log: Path) -> None:
    """A standby takes anybody's place: from now on it writes where that one wrote."""
    output = private.descriptor(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)


if __name__ == "__main__":
    main()
