"""One supervisor a state directory. Apart from `runtime`: the command line looks at it without running a supervisor."""

from __future__ import annotations

import fcntl
import os
from typing import IO

from config.errors import UsageError
from config.files import rewrite
from config.paths import StateDir


def lock(state: StateDir) -> IO[str]:
    """The lock that makes this process the state directory's one supervisor, until it is closed. Raises UsageError
    where another one lives, or the directory cannot be written."""
    try:
        state.create()
        state.lock.touch(mode=0o600)
        file = state.lock.open("r+")  # not inherited: a worker must not keep it
    except OSError as error:
        raise UsageError(f"state directory {state.root}: {error.strerror}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        pid = file.read().strip() or "?"
        file.close()
        raise UsageError(f"a supervisor (pid {pid}) already runs on {state.root}; nothing was changed") from None
    try:
        rewrite(state.lock, str(os.getpid()).encode(), 16)
    except OSError as error:
        file.close()
        raise UsageError(f"{state.lock}: {error.strerror}") from None
    return file
