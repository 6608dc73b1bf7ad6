"""One job's process: started, followed, stopped. Everything it says is in its folder, so it can be found again."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from config.jobs.folder import LOG, JobFollower, JobSpec, last_word, write_spec
from config.jobs.said import JobFailure, JobResult, Said
from worker.drivers.process import Process, spawn

RUN_FILE = "run"

#: How often (s) a person's terminal is told what a job says.
_LOOK_EVERY = 0.1

KILLED = JobFailure("its process ended without a word: it was killed, or had no memory")


def start(folder: Path, spec: JobSpec, environment: Mapping[str, str]) -> Process:
    """Raises OSError."""
    write_spec(folder, spec)
    argv = (sys.executable, "-m", "worker.jobs", str(folder))
    env = {**environment, "PYTHONSAFEPATH": "1"}  # what it writes into the folder is nothing to import
    return spawn(argv, env=env, cwd=folder, log=folder / LOG, run_file=folder / RUN_FILE)


def follow(
    folder: Path, process: Process, on_said: Callable[[Said], None], sleep: Callable[[float], None] = time.sleep
) -> Mapping[str, Any]:
    """Waits for the end of what `start` started here; blocks. Returns the values of its result; raises JobEnded for
    any other end, OSError. An exception out of ``on_said`` or ``sleep``, such as Ctrl-C, ends the job first."""
    follower, end = JobFollower(folder), None
    popen = process.popen
    assert popen is not None, "only its parent can wait for it"
    try:
        while end is None:
            running = popen.poll() is None  # before it is read: what it said last is there then
            for said in follower.read():
                if isinstance(said, JobResult | JobFailure):
                    end = said
                else:
                    on_said(said)
            if end is None and not running:
                end = last_word(folder) or KILLED
            elif end is None:
                sleep(_LOOK_EVERY)
        popen.wait()
    except BaseException:
        stop(process)
        raise
    if isinstance(end, JobFailure):
        raise JobEnded(end)
    return end.values


class JobEnded(Exception):
    """Without a result."""

    def __init__(self, failure: JobFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def stop(process: Process, patience: float = 10.0) -> None:
    """Asks for its end, kills what is left after ``patience`` s, and blocks for as long."""
    popen = process.popen
    assert popen is not None
    popen.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        popen.wait(patience)
    while process.kill_tree():
        popen.poll()
