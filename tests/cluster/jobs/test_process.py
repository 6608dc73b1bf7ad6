"""A job's process is followed to its end, and nothing of it is left however that comes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from cluster.jobs.process import JobEnded, follow, stop
from config.jobs.folder import LOG
from config.jobs.said import JobNote, Said
from worker.drivers.process import Process, spawn

pytestmark = pytest.mark.processes

SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from worker.jobs.job import Cancelled, Job
from config.jobs.said import JobFailure, JobResult
job = Job(Path(sys.argv[1]), time.monotonic)
def cancel(*_): raise Cancelled
signal.signal(signal.SIGTERM, cancel)
try:
    {body}
except Cancelled:
    job.say(JobFailure("cancelled", 499))
"""


def run(folder: Path, body: str) -> Process:
    argv = (sys.executable, "-c", SCRIPT.format(body=body), str(folder))
    root = Path(__file__).parents[3]
    env = {**os.environ, "PYTHONPATH": str(root)}
    return spawn(argv, env=env, cwd=folder, log=folder / LOG, run_file=folder / "run")


def test_what_it_says_comes_in_order_and_its_result_last(tmp_path: Path) -> None:
    process, said = run(tmp_path, "job.note('one'); job.note('two'); job.say(JobResult({'n': 7}))"), []
    assert follow(tmp_path, process, said.append) == {"n": 7}
    assert said == [JobNote("one"), JobNote("two")]


def test_one_that_is_killed_ends_in_a_sentence(tmp_path: Path) -> None:
    process = run(tmp_path, "job.note('soon'); os.kill(os.getpid(), 9)")
    with pytest.raises(JobEnded, match="without a word"):
        follow(tmp_path, process, lambda said: None)


def test_ctrl_c_ends_the_job_and_what_it_started(tmp_path: Path) -> None:
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    process = run(tmp_path, f"os.fork() or {deaf}; job.note('up'); time.sleep(60)")

    def interrupt(said: Said) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow(tmp_path, process, interrupt)
    assert process.empty()


def test_one_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    process = run(tmp_path, "signal.signal(signal.SIGTERM, signal.SIG_IGN); job.note('deaf'); time.sleep(60)")
    with pytest.raises(RuntimeError):
        follow(tmp_path, process, lambda said: (_ for _ in ()).throw(RuntimeError()), lambda seconds: None)
    stop(process, 0.1)
    assert process.empty()
