"""Kinds of jobs for tests, in every process that has this folder in its PYTHONPATH: see `work_for_tests`."""

from __future__ import annotations

from worker.jobs import kinds

kinds.KINDS["count"] = kinds.JobKind("work_for_tests")  # type: ignore[index]
