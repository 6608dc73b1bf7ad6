"""A job whose process was started: heard until that has ended, asked to end, and what it came to."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

from cluster.jobs.process import KILLED, RUN_FILE
from cluster.jobs.record import JobState
from config.jobs.folder import LOG, JobFollower, last_word
from config.jobs.said import JobFailure, JobProgress, JobResult
from worker import logfile
from worker.drivers.process import Process

#: Seconds between two looks at what a job says, and from asking one to end until it is killed.
LOOK_EVERY, PATIENCE = 0.5, 10.0

#: State, why it came to no result, and the HTTP status that says so.
Outcome = tuple[JobState, str | None, int | None]


class FollowedJob:
    """In ``folder``, done by ``process``; None: that is not there any more. ``progress``: how far it was last."""

    def __init__(self, folder: Path, process: Process | None) -> None:
        self._folder, self._process = folder, process
        self._follower, self._over = JobFollower(folder), asyncio.Event()
        self._end: JobResult | JobFailure | None = None
        self._code: int | None = None
        self.progress: JobProgress | None = None
        if process is None:
            self._over.set()
        else:
            process.watch(self._ended)

    async def until_over(self) -> Outcome:
        """Returns when nothing of its processes is left."""
        gone = False
        while not gone:
            gone = self._over.is_set()  # before it is read: what it said last is there then
            await asyncio.to_thread(self._read)
            if not gone:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_EVERY):
                        await self._over.wait()
        if self._end is None:
            with contextlib.suppress(OSError):
                self._end = await asyncio.to_thread(last_word, self._folder)
        await self._kill()
        (self._folder / RUN_FILE).unlink(missing_ok=True)  # its number may be somebody else's from now on
        return outcome(self._end, self._code)

    async def end(self) -> None:
        """Asks its process to end; kills what has not by `PATIENCE`."""
        if self._process is None:
            return
        self._process.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(PATIENCE):
                await self._over.wait()
        except TimeoutError:
            await self._kill()

    def release(self) -> None:
        """Leaves it running."""
        if self._process is not None:
            self._process.unwatch()

    def _ended(self, code: int | None) -> None:
        self._code = code
        self._over.set()

    def _read(self) -> None:
        """What cannot be read is asked for again."""
        with contextlib.suppress(OSError):
            logfile.rotate(self._folder / LOG)
            for said in self._follower.read():
                if isinstance(said, JobProgress):
                    self.progress = said
                elif isinstance(said, JobResult | JobFailure):
                    self._end = said

    async def _kill(self) -> None:
        if self._process is not None:
            while await asyncio.to_thread(self._process.kill_tree):
                await asyncio.sleep(0.02)


def outcome(end: JobResult | JobFailure | None, code: int | None) -> Outcome:
    """By its last word, or where there was none by its exit code, as `subprocess` counts it; None: not known. Pure."""
    if isinstance(end, JobResult):
        return JobState.DONE, None, None
    if isinstance(end, JobFailure):
        return JobState.CANCELLED if end.status == 499 else JobState.FAILED, end.message, end.status
    how = f" (signal {-code})" if code is not None and code < 0 else f" (code {code})" if code else ""
    return JobState.FAILED, KILLED.message + how, KILLED.status
