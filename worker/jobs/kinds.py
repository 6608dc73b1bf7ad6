"""The kinds of jobs, by name: where each is done, and what it needs to be installed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, cast

from worker.jobs.job import Job, JobFailed


class JobWork(Protocol):
    """What a module of `KINDS` has."""

    def run(self, arguments: Mapping[str, Any], job: Job) -> Mapping[str, Any]:
        """Does it, and returns what came of it as JSON. Raises JobFailed."""


@dataclass(frozen=True, slots=True)
class JobKind:
    """``module`` is imported in the job's process alone."""

    module: str


KINDS: Mapping[str, JobKind] = {
    "create": JobKind("worker.training.create"),
    "merge": JobKind("worker.merging.job"),
    "train": JobKind("worker.training.job"),
}


def work(kind: str) -> JobWork:
    """Raises JobFailed 400 for one that there is not."""
    if kind not in KINDS:
        raise JobFailed(f"there are no jobs of the kind {kind!r}", 400)
    return cast(JobWork, importlib.import_module(KINDS[kind].module))


def require(extra: str, *modules: str) -> None:
    """Raises JobFailed 400, which says what to install, unless all of ``modules`` can be imported."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise JobFailed(f"this needs {', '.join(missing)}: pip install 'clusterctl[{extra}]'", 400)
