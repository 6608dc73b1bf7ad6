"""Jobs of a supervisor: real processes, followed, cancelled, killed, found again by the next one."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import Refused
from cluster.jobs import followed, runner
from cluster.jobs.record import GpuWish, JobRecord, JobState
from cluster.jobs.registry import JobRegistry
from cluster.jobs.resources import MachineUse
from cluster.jobs.runner import JobRunner, end_left
from cluster.storage.store import NotSaved
from config.jobs.folder import JobSpec
from fakes import soon
from harness import environment

pytestmark = pytest.mark.processes

KINDS = str(Path(__file__).parents[2] / "jobkinds")


class MemoryStore:
    """What outlives a supervisor."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.number, self.full = 0, False

    async def put(self, **values: Any) -> None:
        if self.full:
            raise NotSaved("the disk is full")
        self.values |= values

    def value(self, **values: Any) -> None:
        self.values |= values

    async def next_number(self, key: str) -> int:
        self.number += 1
        return self.number

    async def flush(self) -> None:
        pass


class Site:
    """One state directory, over several supervisors."""

    def __init__(self, root: Path) -> None:
        self.root, self.store, self.told = root, MemoryStore(), list[tuple[str, str]]()
        self.use = MachineUse((), (), on_cpu=True, cores=2)
        self.boot = "this boot"

    def emit(self, subject: str, text: str, kind: str = "note", data: Any = None) -> None:
        self.told.append((subject, kind))

    def make(self) -> JobRunner:
        return JobRunner(
            self.root, self.boot, JobRegistry(lambda: 1), self.store, lambda: self.use,
            lambda: environment(PYTHONPATH=KINDS, SECRET_OF_A_HUB="x"), self.emit, lambda: 1000.0,
        )

    @asynccontextmanager
    async def supervisor(self) -> AsyncIterator[JobRunner]:
        """Until it is killed: its jobs go on."""
        made = self.make()
        made.begin(self.store.values.get("job_records", ()))
        try:
            yield made
        finally:
            await made.close()


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(followed, "LOOK_EVERY", 0.02)
    site = Site(tmp_path / "jobs")
    yield site
    await asyncio.to_thread(end_left, site.root)


async def count(on: JobRunner, computes: bool = True, **arguments: Any) -> JobRecord:
    return await on.submit(JobSpec("count", arguments), "me", computes=computes)


def in_state(job: JobRecord, state: JobState) -> Callable[[], bool]:
    return lambda: job.state is state


async def test_jobs_wait_for_each_other_are_followed_and_leave_what_came_of_them(site: Site) -> None:
    async with site.supervisor() as jobs:
        first, second = await count(jobs, to=20, pause=0.02), await count(jobs)
        transfer = await count(jobs, computes=False)
        assert [one.id for one in (first, second, transfer)] == ["count-1", "count-2", "count-3"]
        assert (first.state, second.state, transfer.state) == (JobState.RUNNING, JobState.QUEUED, JobState.RUNNING)
        await soon(lambda: (jobs.shown(first)["progress"] or {}).get("done", 0) > 0)
        assert jobs.shown(first)["progress"]["figures"] == {"loss": pytest.approx(0.05, abs=1)}
        await soon(lambda: all(one.state is JobState.DONE for one in (first, second, transfer)))
        assert first.background is True and first.error is None
        assert site.told[:2] == [("count-1", "job.started"), ("count-3", "job.started")]
        assert site.told[-1] == ("count-2", "job.done")
        assert jobs.describe()["ended"] == [{"kind": "count", "state": "done", "count": 3}]
        assert not list(site.root.glob("*/run"))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"end": "fail"}, "it counts no further"),
        ({"end": "kill"}, "its process ended without a word: it was killed, or had no memory (signal 9)"),
    ],
)
async def test_what_fails_says_why(site: Site, arguments: dict[str, Any], error: str) -> None:
    async with site.supervisor() as jobs:
        job = await count(jobs, **arguments)
        await soon(in_state(job, JobState.FAILED))
        assert job.error == error and site.told[-1] == (job.id, "job.failed")
        assert site.store.values["job_records"][0]["state"] == "failed"


@pytest.mark.parametrize("deaf", [False, True])
async def test_one_that_is_cancelled_ends_or_is_killed(
    site: Site, monkeypatch: pytest.MonkeyPatch, deaf: bool
) -> None:
    if deaf:
        monkeypatch.setattr(followed, "PATIENCE", 0.1)
    async with site.supervisor() as jobs:
        job = await count(jobs, to=1000, pause=0.05, deaf=deaf)
        waiting = await count(jobs)
        await soon(lambda: jobs.shown(job)["progress"] is not None)
        jobs.cancel(job.id)
        assert jobs.cancel(job.id).cancelling, "asked twice it is asked once"
        await soon(in_state(job, JobState.CANCELLED))
        assert (job.error, job.status) == ("cancelled", 499)
        await soon(in_state(waiting, JobState.DONE))
        with pytest.raises(Refused, match="has ended already"):
            jobs.cancel(job.id)


async def test_a_job_outlives_its_supervisor_and_the_next_one_hears_its_end(site: Site) -> None:
    async with site.supervisor() as jobs:
        job, waiting = await count(jobs, to=40, pause=0.02), await count(jobs)
        await soon(lambda: jobs.shown(job)["progress"] is not None)
    async with site.supervisor() as jobs:
        again, waiting = jobs.registry.find(job.id), jobs.registry.find(waiting.id)
        assert (again.state, again.pid, site.told[-1]) == (JobState.RUNNING, job.pid, (job.id, "job.adopted"))
        assert waiting.state is JobState.QUEUED
        await soon(in_state(waiting, JobState.DONE))
        assert again.state is JobState.DONE


async def test_the_next_supervisor_says_what_became_of_those_that_ended_meanwhile(site: Site) -> None:
    async with site.supervisor() as jobs:
        killed = await count(jobs, to=1000, pause=0.05)
        done = await count(jobs, computes=False, to=5, pause=0.02)
        await soon(lambda: all(jobs.shown(one)["progress"] is not None for one in (killed, done)))
    assert killed.pid is not None and done.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    for pid in (killed.pid, done.pid):
        await asyncio.to_thread(os.waitpid, pid, 0)
    async with site.supervisor() as jobs:
        await soon(lambda: not [one for one in jobs.registry.jobs.values() if not one.ended])
        assert jobs.registry.find(done.id).state is JobState.DONE
        assert jobs.registry.find(killed.id).error.startswith("its process ended without a word")


async def test_after_a_reboot_a_process_of_that_number_is_somebody_else(site: Site) -> None:
    async with site.supervisor() as jobs:
        job = await count(jobs, to=1000, pause=0.05)
        await soon(lambda: jobs.shown(job)["progress"] is not None)
    site.boot = "the next"
    async with site.supervisor() as jobs:
        await soon(in_state(jobs.registry.find(job.id), JobState.FAILED))
        assert job.pid is not None
        os.kill(job.pid, 0)
        os.kill(job.pid, signal.SIGKILL)


async def test_one_that_was_started_but_not_stored_as_such_is_found(site: Site) -> None:
    async with site.supervisor() as jobs:
        stored = dict(site.store.values)
        job = await count(jobs, to=1000, pause=0.05)
        stored = {"job_records": [{**row, "state": "queued"} for row in site.store.values["job_records"]]}
        await soon(lambda: jobs.shown(job)["progress"] is not None)
    site.store.values = stored
    async with site.supervisor() as jobs:
        again = jobs.registry.find(job.id)
        assert (again.state, again.pid) == (JobState.RUNNING, job.pid)
        await jobs.stop()
        assert again.state is JobState.CANCELLED


async def test_the_end_of_the_cluster_is_the_end_of_its_jobs(site: Site) -> None:
    async with site.supervisor() as jobs:
        job, waiting = await count(jobs, to=1000, pause=0.05), await count(jobs)
        await soon(lambda: jobs.shown(job)["progress"] is not None)
        await jobs.stop()
        assert (job.state, waiting.state) == (JobState.CANCELLED, JobState.CANCELLED)
        with pytest.raises(Refused, match="shutting down"):
            await count(jobs)


async def test_what_cannot_be_stored_is_not_begun(site: Site) -> None:
    async with site.supervisor() as jobs:
        site.store.full = True
        with pytest.raises(NotSaved):
            await count(jobs)
        assert not jobs.registry.jobs and not site.told


async def test_gpus_that_serve_are_refused_before_anything_is_begun(site: Site) -> None:
    site.use = MachineUse((0, 1), {0}, on_cpu=False, cores=2)
    async with site.supervisor() as jobs:
        with pytest.raises(Refused, match="GPU 0 serves"):
            await jobs.submit(JobSpec("count", {}), "me", computes=True, wish=GpuWish((0,)))
        first = await count(jobs, to=1000, pause=0.05)
        assert first.gpus == (1,) and site.store.number == 1
        next_one = await jobs.submit(JobSpec("count", {}), "me", computes=True, wish=GpuWish((1,)))
        assert next_one.state is JobState.QUEUED
        jobs.cancel(first.id)
        await soon(in_state(next_one, JobState.DONE))


def test_status_shows_a_few(site: Site) -> None:
    jobs = site.make()
    assert jobs.describe() is None
    for number in range(runner._SHOWN + 5):
        jobs.registry.add(JobRecord(f"count-{number}", "count", "me", 1.0))
    described = jobs.describe()
    assert described is not None and len(described["latest"]) == runner._SHOWN
    assert described["latest"][0]["id"] == f"count-{runner._SHOWN + 4}"
    assert described["open"] == [{"kind": "count", "state": "queued", "count": runner._SHOWN + 5}]
