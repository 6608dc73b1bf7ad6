"""What a job's own code talks to: where it may write, and how it says how far it is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from config.jobs.folder import LINES
from config.jobs.said import JobFailure, JobNote, JobProgress, JobResult, Said, encode

#: Seconds between two lines of progress in one stage: people see no more. And, of a long job, so many in as long again
#: as it has taken by then: a day's lines are few enough to be read from the beginning.
_EVERY, _LINES_A_DOUBLING = 0.2, 3000


class JobFailed(Exception):
    """Ends the job with this message, a single line that says how to mend it; ``status`` as in `JobFailure`."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


class Cancelled(BaseException):
    """Somebody asked the job to end (SIGTERM): no Exception, so that nobody takes it for a failure to retry."""


class Job:
    """``folder`` is the job's own, for whatever it writes that is no result yet; ``now``: seconds that only rise."""

    def __init__(self, folder: Path, now: Callable[[], float]) -> None:
        self.folder = folder
        self._now = now
        self._stage, self._last, self._began = "", 0.0, now()
        self._lines = os.open(folder / LINES, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def progress(
        self, stage: str, done: float, total: float | None = None, unit: str = "", **figures: float | str
    ) -> None:
        """Says how far it is; may be called at any rate, as most of what comes in between is left out."""
        now = self._now()
        pause = max(_EVERY, (now - self._began) / _LINES_A_DOUBLING)
        if stage == self._stage and done != total and now - self._last < pause:
            return
        self._stage, self._last = stage, now
        self.say(JobProgress(stage, done, total, unit, figures))

    def note(self, text: str) -> None:
        self.say(JobNote(text))

    def say(self, said: Said) -> None:
        """A line at once. Where the disk is full it is lost: the work goes on."""
        try:
            line = encode(said)
        except ValueError as error:
            if not isinstance(said, JobResult):
                return
            line = encode(JobFailure(f"the result is too long: {error}"))
        try:
            os.write(self._lines, line)
        except OSError:
            if isinstance(said, JobResult | JobFailure):
                raise  # an end that nobody hears of would be taken for a kill, as it should
