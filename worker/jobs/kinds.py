"""The kinds of jobs, by name: where each is done, and what it needs to be installed."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, cast

from config.errors import nearest
from worker.jobs.job import Job, JobFailed


class JobWork(Protocol):
    """What a module of `KINDS` has."""

    def run(self, arguments: Mapping[str, Any], job: Job) -> Mapping[str, Any]:
        """Does it, and returns what came of it as JSON. Raises JobFailed."""


class JobCheck(Protocol):
    """What the module `JobKind.check` has."""

    def check(self, arguments: Mapping[str, Any]) -> None:
        """Raises JobFailed 400 for arguments that are none of this kind's. Pure."""


@dataclass(frozen=True, slots=True)
class JobKind:
    """``module`` is imported in the job's process alone; ``check`` also by whoever starts one, so it is quick to
    import. ``computes``: it is no mere transfer, takes processors or GPUs, and waits for others of its kind.
    ``paths``: those of its arguments that name files of this machine; text with ``://`` in it names none."""

    module: str
    check: str = ""
    computes: bool = True
    paths: tuple[str, ...] = ()


KINDS: Mapping[str, JobKind] = {
    "convert": JobKind(
        "worker.conversion.job", "worker.conversion.arguments", computes=False, paths=("source", "base", "out")
    ),
    "create": JobKind("worker.training.create", "worker.training.create", paths=("model", "out")),
    "merge": JobKind("worker.merging.job", "worker.merging.job", paths=("model", "adapter", "out")),
    "pull": JobKind("worker.sources.job", "worker.sources.arguments", computes=False, paths=("store",)),
    "push": JobKind("worker.publishing.job", "worker.publishing.job", computes=False, paths=("folder", "destination")),
    "quantize": JobKind("worker.merging.quantize", "worker.merging.quantize", paths=("model", "out")),
    "train": JobKind("worker.training.job", "worker.training.settings", paths=("model", "data", "out")),
}


def find(kind: str) -> JobKind:
    """Raises JobFailed 400 for one that there is not."""
    if kind not in KINDS:
        raise JobFailed(f"there are no jobs of the kind {kind[:100]!r}{nearest(kind, KINDS)}", 400)
    return KINDS[kind]


def work(kind: str) -> JobWork:
    """Raises JobFailed 400 for one that there is not."""
    return cast(JobWork, importlib.import_module(find(kind).module))


def check(kind: str, arguments: Mapping[str, Any]) -> JobKind:
    """Before a job is started. Raises JobFailed 400."""
    found = find(kind)
    for name in found.paths:
        path = arguments.get(name)
        if isinstance(path, str) and "://" not in path and not path.startswith("/"):
            raise JobFailed(f"{name}: {path[:200]!r} is no absolute path, and the job runs in a folder of its own", 400)
    if found.check:
        cast(JobCheck, importlib.import_module(found.check)).check(arguments)
    return found


def require(extra: str, *modules: str) -> None:
    """Raises JobFailed 400, which says what to install, unless all of ``modules`` can be imported."""
    missing = [module for module in modules if find_spec(module) is None]
    if missing:
        raise JobFailed(f"this needs {', '.join(missing)}: pip install 'clusterctl[{extra}]'", 400)
