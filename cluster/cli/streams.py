"""The standard streams and the closed terminal, as careless callers hand them to a command."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from types import FrameType


def prepare() -> None:
    """Closed standard streams become the null device: otherwise the next file that is opened gets their number, and
    what is printed goes into it. What the output's encoding lacks is replaced, whatever that encoding is."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # without O_CLOEXEC's work: dup2 makes it inheritable
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def silence() -> None:
    """Whoever read our output has gone, or the terminal has: what is still to be said goes nowhere, also what the
    interpreter flushes at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)


def ending_signals() -> tuple[signal.Signals, ...]:
    """Those that ask a command to end in good order: Ctrl-C, SIGTERM, and a terminal that is closed, unless somebody
    (nohup) wants that to be ignored."""
    ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return (signal.SIGINT, signal.SIGTERM) if ignored else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end(number: int, frame: FrameType | None) -> None:
    """The handler of a signal that unwinds as Ctrl-C does, so that what was begun is cleaned up."""
    raise SystemExit(128 + number)


@contextlib.contextmanager
def handling(handlers: Mapping[signal.Signals, Callable[[int, FrameType | None], None]]) -> Iterator[None]:
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
