"""Has the jobs of a cluster done: started where there is room, followed, cancelled, found again by the next supervisor.

A job's process and folder outlive the supervisor. All calls are made in the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from cluster.errors import Refused
from cluster.events import Emit
from cluster.jobs import folders, process
from cluster.jobs.environment import job_environment
from cluster.jobs.followed import FollowedJob
from cluster.jobs.record import GpuWish, JobRecord, JobState, from_json
from cluster.jobs.registry import JobRegistry
from cluster.jobs.resources import JobShare, MachineUse, check_wish, share
from config.aio import Tasks
from config.jobs.folder import JobSpec, read_spec, write_spec
from worker.drivers import run_file
from worker.drivers.process import Process, find

#: Jobs that status shows: it is told once a second.
_SHOWN = 10


class JobStore(Protocol):
    """`cluster.storage.write_behind.WriteBehind`."""

    async def put(self, **values: Any) -> None: ...

    def value(self, **values: Any) -> None: ...

    async def next_number(self, key: str) -> int: ...

    async def flush(self) -> None: ...


class JobRunner:
    """In the folder ``root``, on a machine that has booted as ``boot``. ``serving()``: what there is, and what workers
    use of it; ``environment()``: what a job inherits; ``wall()``: s since the epoch."""

    def __init__(
        self, root: Path, boot: str, registry: JobRegistry, store: JobStore, serving: Callable[[], MachineUse],
        environment: Callable[[], Mapping[str, str]], emit: Emit, wall: Callable[[], float],
    ) -> None:
        self.root, self.registry = root, registry
        self._boot, self._store, self._serving, self._environment = boot, store, serving, environment
        self._emit, self._wall = emit, wall
        self._followed: dict[str, FollowedJob] = {}
        self._tasks, self._lock, self._ending = Tasks(), asyncio.Lock(), False

    # what clients ask for

    async def submit(
        self, spec: JobSpec, by: str, *, computes: bool, background: bool | None = None, wish: GpuWish | None = None
    ) -> JobRecord:
        """A job that is stored, and runs or waits. Raises Refused, NotSaved, OSError: nothing is left of it then."""
        wish = wish or GpuWish()
        async with self._lock:
            if self._ending:
                raise Refused(409, "the cluster is shutting down")
            self.registry.check_room()
            check_wish(wish, _with_jobs(self._serving(), self.registry))
            name = f"{spec.kind}-{await self._store.next_number('jobs')}"
            job = JobRecord(name, spec.kind, by, self._wall(), computes, background, wish)
            await asyncio.to_thread(write_spec, self.folder(name), spec)
            self.registry.add(job)
            try:
                await self._store.put(job_records=self.registry.to_json())
            except BaseException:
                del self.registry.jobs[name]
                raise  # its folder is swept with the next that ends
        self._advance()
        return job

    def cancel(self, name: str) -> JobRecord:
        """Asks it to end. Raises Refused."""
        job = self.registry.find(name)
        if self.registry.cancel(job, self._wall()):
            self._tasks.start(self._followed[job.id].end(), f"end {job.id}")
        elif job.ended:
            self._say(job, "cancelled before it began", kind="job.cancelled")
        self._save()
        return job

    def shown(self, job: JobRecord) -> dict[str, Any]:
        followed = self._followed.get(job.id)
        return job.shown(followed.progress if followed is not None else None)

    def describe(self) -> dict[str, Any] | None:
        """For status: the latest, the newest first, and figures; None where there are none."""
        if not self.registry.jobs:
            return None
        latest = list(self.registry.jobs.values())[: -_SHOWN - 1 : -1]
        return {"latest": [self.shown(job) for job in latest], **self.registry.describe()}

    def folder(self, name: str) -> Path:
        return self.root / name

    # as long as the supervisor runs

    def begin(self, rows: Iterable[Mapping[str, Any]], *, ending: bool = False) -> None:
        """Takes over what an earlier supervisor knew, and goes on; with ``ending`` nothing is started any more."""
        self._ending = ending
        for values in rows:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                self.registry.add(from_json(values))
        for job in [job for job in self.registry.jobs.values() if not job.ended]:
            self._adopt(job)
        self._advance()
        self._tasks.start(self._sweep(), "remove old jobs")

    async def close(self) -> None:
        """Leaves them running."""
        await self._tasks.close()
        for followed in self._followed.values():
            followed.release()

    def end_all(self) -> None:
        """Asks them all to end, and starts no more. Whoever follows one can hear of it as long as the cluster
        answers."""
        self._ending = True
        for job in [job for job in self.registry.jobs.values() if not job.ended]:
            self.cancel(job.id)

    async def stop(self) -> None:
        """Ends them all; returns when that is so, and stored."""
        self.end_all()
        while self._followed:
            await asyncio.sleep(0.02)
        await self._store.flush()

    # one job

    def _advance(self) -> None:
        """Starts what may start."""
        while not self._ending and any(map(self._begin, self.registry.startable())):
            pass  # what may start now is another question
        self._save()

    def _begin(self, job: JobRecord) -> bool:
        """Whether it does not wait any more."""
        try:
            if (given := share(job, _with_jobs(self._serving(), self.registry))) is None:
                return False
            started = self._start(job, given)
        except (Refused, OSError, ValueError) as error:
            status = error.status if isinstance(error, Refused) else 500
            self._end(job, JobState.FAILED, f"it could not be started: {error}", status)
            return True
        self.registry.begin(job, self._wall(), given.gpus, given.background)
        job.pid = started.pid
        where = f", on GPU {', '.join(map(str, given.gpus))}" if given.gpus else ""
        self._say(job, f"started (pid {started.pid}{where})", kind="job.started")
        self._follow(job, started)
        return True

    def _start(self, job: JobRecord, given: JobShare) -> Process:
        folder = self.folder(job.id)
        spec = replace(read_spec(folder), background=given.background)
        run_file.prepare(folder / process.RUN_FILE, {"boot": self._boot})
        environment = job_environment(self._environment(), given.gpus, given.threads)
        return process.start(folder, spec, environment)

    def _adopt(self, job: JobRecord) -> None:
        path = self.folder(job.id) / process.RUN_FILE
        left = find(None, path) if run_file.notes(path).get("boot") == self._boot else None
        if job.state is JobState.QUEUED:
            if left is None:
                return
            self.registry.begin(job, self._wall(), (), False)  # it was started, and that not stored any more
        if left is not None and not left.empty():
            job.pid = left.pid
            self._say(job, f"adopted (pid {left.pid})", kind="job.adopted")
        self._follow(job, left)
        if job.cancelling:
            self._tasks.start(self._followed[job.id].end(), f"end {job.id}")

    def _follow(self, job: JobRecord, started: Process | None) -> None:
        self._followed[job.id] = FollowedJob(self.folder(job.id), started)
        self._tasks.start(self._until_end(job), f"follow {job.id}")

    async def _until_end(self, job: JobRecord) -> None:
        state, error, status = await self._followed[job.id].until_over()
        del self._followed[job.id]
        if job.cancelling and state is not JobState.DONE:
            state, error, status = JobState.CANCELLED, "cancelled", 499  # however its process took that
        self._end(job, state, error, status)
        self._advance()
        await self._sweep()

    def _end(self, job: JobRecord, state: JobState, error: str | None = None, status: int | None = None) -> None:
        self.registry.end(job, self._wall(), state, error, status)
        took = f" after {job.ended_at - job.started_at:.0f} s" if job.started_at and job.ended_at else ""
        words = f"{state}{took}{f': {error}' if error else ''}"
        if state is JobState.DONE:
            self._say(job, words, kind="job.done")
        elif state is JobState.FAILED:
            self._say(job, words, kind="job.failed")
        else:
            self._say(job, words, kind="job.cancelled")
        self._save()

    def _say(self, job: JobRecord, text: str, *, kind: str) -> None:
        data = {"kind": job.kind, "state": str(job.state), "pid": job.pid, "error": job.error}
        self._emit(job.id, text, kind=kind, data=data)

    # all of them

    def _save(self) -> None:
        self._store.value(job_records=self.registry.to_json())

    async def _sweep(self) -> None:
        async with self._lock:  # nobody is making a folder
            if self.registry.forget(self._wall()):
                self._save()
            jobs = list(self.registry.jobs.values())
            ended = [job.id for job in jobs if job.ended]
            await asyncio.to_thread(folders.sweep, self.root, ended, [job.id for job in jobs if not job.ended])


def _with_jobs(use: MachineUse, registry: JobRegistry) -> MachineUse:
    return replace(use, taken={gpu for job in registry.running() for gpu in job.gpus})


def end_left(root: Path) -> None:
    """Kills the jobs of a supervisor that is gone; blocks."""
    for path in root.glob(f"*/{process.RUN_FILE}"):
        if (left := find(None, path)) is not None:
            while left.kill_tree():
                pass
