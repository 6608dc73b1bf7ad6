"""One supervisor a state directory. Apart from `runtime`: the command line looks at it without running a supervisor."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import IO

from config.disk import private
from config.disk.files import rewrite
from config.errors import UsageError
from config.paths import StateDir


class Held(UsageError):
    """A supervisor lives already."""


def lock(state: StateDir) -> IO[bytes]:
    """The lock that makes this process the state directory's one supervisor, until it is closed. Raises Held where
    another one lives, UsageError where the directory cannot be used."""
    try:
        state.create()
        file = private.open_file(state.lock, "a+b")  # not inherited: a worker must not keep it
    except OSError as error:
        raise UsageError(f"state directory {state.root}: {error.strerror}{_hint(error)}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        who = pid(state) or "?"
        what = "the process of balancers that have joined" if state.joined.exists() else "a supervisor"
        raise Held(f"{what} (pid {who}) already runs on {state.root}; nothing was changed") from None
    try:
        rewrite(state.lock, str(os.getpid()).encode(), 16)
    except OSError as error:
        file.close()
        raise UsageError(f"{state.lock}: {error.strerror}") from None
    return file


def held(state: StateDir) -> bool:
    """Whether a supervisor lives. Makes nothing, writes nothing. Raises UsageError where that cannot be seen."""
    try:
        with private.open_file(state.lock) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        raise UsageError(f"{state.lock}: {error.strerror}") from None
    return False


def pid(state: StateDir) -> int | None:
    """Of the supervisor that took the lock last, as it says."""
    try:
        return int(private.read(state.lock))
    except (OSError, ValueError):
        return None


def _hint(error: OSError) -> str:
    return "; another one is named with --state-dir" if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else ""
