"""Ends what this process started when it is killed, as nothing of it runs then: a process beside it waits for that, and
ends all that have a mark in their environment."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from typing import IO

import psutil

#: Of the environment of whatever is to end.
MARK = "CLUSTERCTL_ENDS_WITH"

#: A title of a process (vLLM gives some) is written over its environment unless setproctitle reads this.
_KEPT = {"SPT_NOENV": "1"}

#: How long (s) it looks for processes that were just being started.
_LOOKS_S = 5.0


@contextlib.contextmanager
def ending_with_us() -> Iterator[dict[str, str]]:
    """Variables for the environment of what is started. Whatever still has them when this process is killed is killed,
    too; when the context ends, nothing is."""
    mark = uuid.uuid4().hex
    command = [sys.executable, "-P", __file__, mark]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, start_new_session=True) as process:
        assert process.stdin is not None
        try:
            yield {MARK: mark, **_KEPT}
        finally:
            with contextlib.suppress(BrokenPipeError):  # somebody ended it: then nobody watches
                process.stdin.write(b".")
                process.stdin.flush()


def _watch(mark: str, parent: IO[bytes]) -> None:
    if parent.read(1):
        return
    until = time.monotonic() + _LOOKS_S
    while time.monotonic() < until and _kill(mark):
        time.sleep(0.1)


def _kill(mark: str) -> int:
    """How many had the mark."""
    found = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found += 1
                process.kill()
    return found


if __name__ == "__main__":
    _watch(sys.argv[1], sys.stdin.buffer)
