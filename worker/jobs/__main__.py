"""``python -m worker.jobs FOLDER``: what the folder's specification says (`config.jobs`); code 0 or 1."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType

from config.disk.files import NO_ROOM
from config.jobs.folder import read_spec
from config.jobs.said import JobFailure, JobResult
from worker import session_weight
from worker.jobs.job import Cancelled, Job, JobFailed
from worker.jobs.kinds import work


def main() -> None:
    sys.exit(run(Path(sys.argv[1])))


def run(folder: Path) -> int:
    job = Job(folder, time.monotonic)
    try:
        spec = read_spec(folder)
        signal.signal(signal.SIGTERM, _cancel)
        if spec.background:
            _give_way()
        job.say(JobResult(work(spec.kind).run(spec.arguments, job)))
        return 0
    except Cancelled:
        job.say(JobFailure("cancelled", 499))
    except JobFailed as error:
        job.say(JobFailure(str(error), error.status))
    except OSError as error:
        traceback.print_exc()  # into the job's log
        job.say(JobFailure(str(error), 507 if error.errno in NO_ROOM else 500))
    except Exception as error:
        traceback.print_exc()
        job.say(JobFailure(f"{type(error).__name__}: {error}"[:1000]))
    return 1


def _cancel(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # asked twice it clears up once
    raise Cancelled


def _give_way() -> None:
    """The processor only where nobody else wants it; a nice value alone would still take its share of it."""
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    os.nice(19)  # for the disk, whose scheduler knows no idle class of processors
    session_weight.lighten()


if __name__ == "__main__":
    main()
