"""Standard streams as careless callers hand them over: each in a process of its own, whose streams they are."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.cli import streams
from harness import CLI, environment

pytestmark = pytest.mark.processes

_CODE = "from cluster.cli import streams; streams.prepare(); print('caf\\u00e9 \\u6f22')"


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", b"caf? ?\n"), ("latin-1", b"caf\xe9 ?\n")])
def test_what_an_encoding_lacks_is_replaced(encoding: str, shown: bytes) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _CODE], capture_output=True, env=environment(PYTHONIOENCODING=encoding), check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, shown, b"")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_is_no_traceback(closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'"$0" --help {closed}', CLI], capture_output=True, env=environment(), check=False
    )
    assert done.returncode == 0 and b"Traceback" not in done.stderr


def test_a_reader_that_has_gone_is_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run([CLI, "--help"], stdout=writer, stderr=subprocess.PIPE, env=environment(), check=False)
    finally:
        os.close(writer)
    assert b"Traceback" not in done.stderr and b"BrokenPipe" not in done.stderr


@pytest.mark.parametrize(("handler", "asked"), [(signal.SIG_IGN, False), (signal.SIG_DFL, True)])
def test_a_closed_terminal_ends_a_command_unless_that_is_ignored(handler: signal.Handlers, asked: bool) -> None:
    before = signal.signal(signal.SIGHUP, handler)
    try:
        assert (signal.SIGHUP in streams.ending_signals()) is asked
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_full_disk_cuts_the_output_off_and_says_so() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([CLI, "--help"], stdout=full, stderr=subprocess.PIPE, env=environment(), check=False)
    assert done.returncode == 1
    assert done.stderr.decode() == "error: the output is cut off: No space left on device\n"
