"""What a fork of the zygote does to become a worker: what `worker.drivers.process.spawn` has a shell do.

Its run file first: a supervisor that was killed after it had asked has to be able to find it.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import sys
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker.drivers import proc
from worker.drivers import zygote_protocol as protocol

#: SIGPIPE is not among them: Python ignores it from its start on, and with its default a write to a client that has
#: left would end the worker.
_OWN_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """One start, as `worker.drivers.forked` asks for it. ``log``: the descriptor that output goes to."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    run_file: str
    log: int

    @classmethod
    def read(cls, message: Mapping[str, Any], log: int) -> ForkRequest:
        """Raises KeyError, TypeError, ValueError for what is none."""
        argv, env = tuple(message["argv"]), dict(message["env"])
        if not argv or not all(isinstance(word, str) for word in (*argv, *env, *env.values())):
            raise ValueError("a command and an environment are texts")
        return cls(argv, env, str(message["cwd"]), str(message["run_file"]), log)


def become(request: ForkRequest, connection: socket.socket, others: Collection[int]) -> None:
    """Makes this process the leader of a session of its own that runs where ``request`` says, without the descriptors
    ``others`` of the zygote. Ends it where that is not possible, or where nobody is there any more to be answered."""
    try:
        os.setsid()
        signal.set_wakeup_fd(-1)
        for number in _OWN_SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _redirect(request.log)
        for descriptor in others:
            os.close(descriptor)
        os.chdir(request.cwd)
        identity = _write_down(request.run_file)
    except OSError as error:
        with contextlib.suppress(OSError):
            connection.send(protocol.encode({"error": str(error), "errno": error.errno}))
        os._exit(1)
    try:
        connection.send(protocol.encode({"identity": {"pid": identity.pid, "start_ticks": identity.start_ticks}}))
    except OSError:
        os._exit(1)  # whoever asked has given up, and starts it otherwise
    connection.close()
    os.environ.clear()
    os.environ.update(request.env)
    sys.argv = list(request.argv)
    _differ()
    _entitle(request.argv)


def _redirect(log: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(null)
    os.close(log)


def _write_down(run_file: str) -> proc.ProcessId:
    """In place, as its room was taken before (`worker.drivers.run_file`). Raises OSError."""
    line = Path("/proc/self/stat").read_text().strip()
    descriptor = os.open(run_file, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.write(descriptor, f"{line}\n".encode(errors="replace"))
    finally:
        os.close(descriptor)
    return proc.parse_stat(line).identity


def _differ() -> None:
    """From its zygote and its brothers, in what was found out before the fork."""
    tempfile.tempdir = None
    random.seed()
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed()


def _entitle(argv: Collection[str]) -> None:
    """Lists of processes show the zygote's command, and /proc its environment, unless both are written over."""
    try:
        import setproctitle
    except ImportError:
        return
    setproctitle.setproctitle(" ".join(argv))
