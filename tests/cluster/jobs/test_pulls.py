"""References fetched by jobs of a cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from cluster.errors import Refused
from cluster.jobs.pulls import SourceFetcher
from cluster.jobs.record import JobRecord, JobState
from cluster.jobs.runner import JobRunner
from config.jobs.folder import JobSpec
from config.settings import load
from config.values.references import Reference, parse
from worker.sources.store import SourceStore


class FakeJobs:
    """Each job has ended by the time that it is looked at, as ``end`` has it."""

    def __init__(self, end: Callable[[JobSpec, JobRecord], None]) -> None:
        self.specs: list[JobSpec] = []
        self._end = end

    async def submit(self, spec: JobSpec, by: str, *, computes: bool) -> JobRecord:
        assert not computes
        self.specs.append(spec)
        job = JobRecord("pull-1", spec.kind, by, 0.0, computes)
        job.state = JobState.DONE
        self._end(spec, job)
        return job


def put(root: Path, reference: Reference) -> None:
    store = SourceStore(root)
    with store.held(reference):
        (store.partial(reference, "r") / "f").write_bytes(b"x")
        store.use(reference, store.keep(reference, "r", "adapter", {"f": (1, "0" * 64)}))


def fetcher(root: Path, jobs: FakeJobs, **settings: Any) -> SourceFetcher:
    made = load({"engine": "sim", **settings})
    return SourceFetcher(root, cast(JobRunner, jobs), lambda: made)


async def test_a_branch_is_asked_for_again_and_a_commit_is_not(tmp_path: Path) -> None:
    jobs = FakeJobs(lambda spec, job: put(tmp_path, parse(spec.arguments["references"][0])))
    found = fetcher(tmp_path, jobs, source_hosts="*.example.com", source_private=True)
    for text, asked in (("hf://a/b", 2), (f"hf://a/b@{'a' * 40}", 1)):
        jobs.specs.clear()
        folders = {await found.folder(text, "adapter") for _ in range(2)}
        assert len(folders) == 1 and (folders.pop() / "f").read_bytes() == b"x"
        assert len(jobs.specs) == asked
    arguments = jobs.specs[0].arguments
    assert (arguments["hosts"], arguments["private"], arguments["refresh"]) == (["*.example.com"], True, True)


@pytest.mark.parametrize(("status", "told"), [(404, 404), (507, 507), (499, 409), (None, 500)])
async def test_a_job_that_fails_says_why(tmp_path: Path, status: int | None, told: int) -> None:
    def fail(spec: JobSpec, job: JobRecord) -> None:
        job.state, job.error, job.status = JobState.FAILED, "it is not there", status

    with pytest.raises(Refused, match=r"it is not there \(pull-1\)") as refused:
        await fetcher(tmp_path, FakeJobs(fail)).folder("hf://a/b", "adapter")
    assert refused.value.status == told


async def test_what_is_no_reference_or_came_to_nothing_is_refused(tmp_path: Path) -> None:
    jobs = FakeJobs(lambda spec, job: None)
    with pytest.raises(Refused, match="gs:// is not known") as refused:
        await fetcher(tmp_path, jobs).folder("gs://a", "adapter")
    assert refused.value.status == 404 and not jobs.specs
    with pytest.raises(Refused, match="was fetched, and is not there"):
        await fetcher(tmp_path, jobs).folder("hf://a/b", "adapter")
