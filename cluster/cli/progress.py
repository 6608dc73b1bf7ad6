"""`run_job`: has a job done for a command, by the cluster where one runs, else in a process of the command's own."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from cluster.cli.common import client, is_on_this_machine, url_option
from cluster.cli.job_display import JobDisplay
from cluster.cli.render import say
from cluster.client import ClusterClient, ClusterError
from config.errors import UsageError
from config.jobs.folder import JobSpec
from config.jobs.said import JobFailure, JobResult, from_json
from config.sources.commands import cluster_url, names_cluster

F = TypeVar("F", bound=Callable[..., Any])

#: Seconds between two questions to a cluster, and for how long its supervisor may be away meanwhile.
_ASK_EVERY, _AWAY = 0.3, 120.0

#: Where nobody listens any more, for so long (s) and so many questions, the cluster has ended: balancers that are
#: replaced keep their socket.
_GONE, _QUESTIONS = 10.0, 10


@dataclass(frozen=True, slots=True)
class JobPlace:
    """Where a job is done. ``url`` None: the cluster that commands find, if one runs; one on another machine has other
    files, and does none. ``gpus`` None: one that nobody uses; such as serve only with ``share_gpus``. ``background``
    None: as suits the machine. ``detach``: it is not waited for. ``here``: by this command itself, whatever runs."""

    url: str | None = None
    gpus: Sequence[int] | None = None
    share_gpus: bool = False
    background: bool | None = None
    detach: bool = False
    here: bool = False


HERE = JobPlace(here=True)


def job_options(function: F) -> F:
    """The options of a command that has a job done: it gets them as ``place``."""

    @functools.wraps(function)
    def with_place(
        *args: Any, url: str | None, gpus: tuple[int, ...] | None, share_gpus: bool, detach: bool, here: bool,
        **kwargs: Any,
    ) -> Any:
        if here and detach:
            raise UsageError("--here waits for its job: leave --detach away", exit_code=2)
        return function(*args, place=JobPlace(url, gpus, share_gpus, detach=detach, here=here), **kwargs)

    for option in (
        click.option("--gpus", callback=_gpus, metavar="0,1|none", help="GPUs to use; default a free one."),
        click.option("--share-gpus", is_flag=True, help="Also GPUs that serve, where --gpus names them."),
        click.option("--detach", is_flag=True, help="Say the job's id and return; the cluster goes on with it."),
        click.option("--here", is_flag=True, help="In this command's own process, although a cluster runs."),
    ):
        with_place = option(with_place)
    return url_option(with_place)  # type: ignore[return-value]


def _gpus(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, ...] | None:
    if value is None or value == "none":
        return None if value is None else ()
    numbers = value.split(",")
    if not all(number.isascii() and number.isdecimal() and len(number) < 5 for number in numbers):
        raise click.BadParameter(f"{value!r}: numbers of GPUs such as 0,1, or none, are needed", context, parameter)
    return tuple(map(int, numbers))


def run_job(
    spec: JobSpec, place: JobPlace = HERE, *, gpus: Sequence[int] | None = None, shown: Console | None = None
) -> Mapping[str, Any]:
    """Has ``spec`` done, shows on standard error how far it is, and returns the values of its result, none where it is
    not waited for. By the cluster of ``place``: Ctrl-C leaves it there, and says how to go on. In a process of our own:
    Ctrl-C ends it. ``gpus``: instead of those of ``place``. Paths in it have to be absolute. Raises UsageError with the
    sentence of a job that fails (exit code 2 where what was asked for is wrong), ClusterError."""
    place = place if gpus is None else replace(place, gpus=gpus)
    if not place.here and is_on_this_machine(place.url or cluster_url()):
        with client(place.url) as cluster:
            job_id = _submitted(cluster, spec, place)
            if job_id is not None and place.detach:
                click.echo(job_id)
                return {}
            if job_id is not None:
                return follow_job(cluster, job_id, shown)
    if place.detach:
        raise UsageError("no cluster runs on this machine that could go on with it: leave --detach away")
    return _run_here(spec, place.gpus, shown)


def _submitted(cluster: ClusterClient, spec: JobSpec, place: JobPlace) -> str | None:
    """The id of the job; None where no cluster runs, and nobody has named one."""
    try:
        job = cluster.start_job(
            spec.kind, spec.arguments, gpus=place.gpus, share_gpus=place.share_gpus,
            background=spec.background or place.background,
        )
        return job["id"]
    except ClusterError as error:
        if error.type is None and place.url is None and not names_cluster():
            return None  # nothing answers at the usual address, or something else does
        if error.status in (401, 403):
            raise ClusterError(f"{error.message}; --here does without the cluster", error.status) from None
        raise


def follow_job(cluster: ClusterClient, job_id: str, shown: Console | None = None) -> Mapping[str, Any]:
    """Until it has ended; as `run_job`."""
    try:
        with JobDisplay(shown) as display:
            job = _heard(cluster, job_id, display)
    except KeyboardInterrupt:
        wait, cancel = (f"clusterctl jobs {verb} {job_id}" for verb in ("wait", "cancel"))
        say(f"{job_id} goes on: {wait} follows it, {cancel} ends it", err=True)
        raise
    if job["state"] != "done":
        raise failed(JobFailure(f"{job_id}: {job['error']}", job["status"] or 500))
    return cluster.job(job_id)["result"] or {}


def _heard(cluster: ClusterClient, job_id: str, display: JobDisplay) -> Mapping[str, Any]:
    """The job as it is once it has ended. Balancers and supervisors may be replaced meanwhile."""
    since, answered_at, in_vain = 0, time.monotonic(), 0
    while True:
        try:
            answer = cluster.job_events(job_id, since)
            answered_at, in_vain = time.monotonic(), 0
        except ClusterError as error:
            in_vain += 1
            nobody = error.status is None and in_vain >= _QUESTIONS
            patience = _GONE if nobody else _AWAY
            if error.status not in (None, 503) or time.monotonic() - answered_at > patience:
                raise
            time.sleep(_ASK_EVERY)
            continue
        for values in answer["events"]:
            said = from_json(values)
            if said is not None and not isinstance(said, JobResult | JobFailure):
                display.show(said)
        if answer["over"]:
            return answer["job"]
        if answer["next"] == since:
            time.sleep(_ASK_EVERY)
        since = answer["next"]


def _run_here(spec: JobSpec, gpus: Sequence[int] | None, shown: Console | None) -> Mapping[str, Any]:
    from cluster.jobs.environment import job_environment
    from cluster.jobs.process import JobEnded, follow, start
    from config.settings import inherited_environment

    with tempfile.TemporaryDirectory(prefix="clusterctl-job-") as name, JobDisplay(shown) as display:
        folder = Path(name)
        try:
            process = start(folder, spec, job_environment(inherited_environment(), gpus))
            return follow(folder, process, display.show)
        except JobEnded as ended:
            raise failed(ended.failure) from None
        except OSError as error:
            raise UsageError(f"the job cannot be started: {error}") from None


def failed(failure: JobFailure) -> UsageError:
    """For the command that waited."""
    return UsageError(failure.message, exit_code=2 if failure.status == 400 else 1)
