"""Who ends with a program that is killed, and who does not."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from harness import poll

pytestmark = pytest.mark.processes

#: Starts one process with the mark and one without, and says their numbers; ``{end}`` is what it does then. Both have a
#: title, as an engine of vLLM has, which is longer than what they were started with.
_PROGRAM = """
import os, subprocess, sys, time
from worker.offline.watchdog import ending_with_us
TITLED = "import setproctitle, time; setproctitle.setproctitle('x' * 9000); print(flush=True); time.sleep(300)"
with ending_with_us() as marked:
    sleeps = [subprocess.Popen([sys.executable, "-c", TITLED], env={{**os.environ, **more}}, start_new_session=True,
                               stdout=subprocess.PIPE) for more in (marked, {{}})]
    for each in sleeps:
        each.stdout.readline()
    print(*(each.pid for each in sleeps), flush=True)
    {end}
"""


@contextlib.contextmanager
def _running(end: str) -> Iterator[tuple[subprocess.Popen[str], psutil.Process, psutil.Process]]:
    program = [sys.executable, "-c", _PROGRAM.format(end=end)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        marked, other = (psutil.Process(int(pid)) for pid in process.stdout.readline().split())
        try:
            yield process, marked, other
        finally:
            for each in (process, marked, other):
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()


def test_what_has_the_mark_ends_with_a_killed_program_and_nothing_else() -> None:
    with _running("time.sleep(300)") as (process, marked, other):
        process.kill()
        poll(lambda: not marked.is_running() or marked.status() == psutil.STATUS_ZOMBIE, 10, "it is ended")
        assert other.is_running() and other.status() != psutil.STATUS_ZOMBIE


def test_nothing_ends_with_a_program_that_ends_by_itself() -> None:
    with _running("pass") as (process, marked, other):
        assert process.wait(20) == 0
        assert marked.status() == other.status() == psutil.STATUS_SLEEPING
