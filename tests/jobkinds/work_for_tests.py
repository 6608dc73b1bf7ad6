"""A job that counts to ``to`` in steps of ``pause`` seconds, and then ends as ``end`` and ``says`` say."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from typing import Any

from worker.jobs.job import Job, JobFailed


def run(arguments: Mapping[str, Any], job: Job) -> Mapping[str, Any]:
    if arguments.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    to = arguments.get("to", 3)
    for done in range(to + 1):
        job.progress("count", done, to, "steps", loss=1.0 / (done + 1))
        time.sleep(arguments.get("pause", 0.0))
    end = arguments.get("end", "result")
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "fail":
        raise JobFailed(arguments.get("says", "it counts no further"), 409)
    return {"counted": to, "sees": {name: os.environ.get(name) for name in arguments.get("environment", ())}}
