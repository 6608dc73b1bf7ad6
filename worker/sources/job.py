"""The job ``pull``: what references mean, fetched, checked and put into the store."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from config.values.references import Reference, parse
from worker.jobs.job import Job, JobFailed
from worker.sources.arguments import read
from worker.sources.discreet import discreet
from worker.sources.egress import EgressPolicy, environment_guard
from worker.sources.https import HttpsSource
from worker.sources.hub import HubSource
from worker.sources.modelscope import ModelScopeSource
from worker.sources.pull import Pull
from worker.sources.remote import RemoteSource
from worker.sources.s3 import S3Source
from worker.sources.store import SourceStore


def run(arguments: Mapping[str, Any], job: Job) -> Mapping[str, Any]:
    """``fetched``: `Fetched` by reference, ``failed``: the sentence by reference. Raises JobFailed where nothing was
    fetched."""
    given = read(arguments)
    policy = EgressPolicy(tuple(given.hosts), given.private)
    guard = environment_guard(policy)
    guard.install()

    def wait(seconds: float) -> None:
        if guard.refused:  # it will be no other the next time
            raise JobFailed(guard.refused, 403)
        time.sleep(seconds)

    store = SourceStore(Path(given.store))
    fetched: dict[str, Any] = {}
    failed: dict[str, JobFailed] = {}
    for text in dict.fromkeys(given.references):
        reference = parse(text)
        try:
            pull = Pull(reference, given.what, store, partial(source_of, reference, policy), job, wait)
            fetched[text] = asdict(pull.run(given.refresh, given.kept))
        except JobFailed as error:
            failed[text] = JobFailed(discreet(guard.refused or str(error)), 403 if guard.refused else error.status)
            guard.refused = None
    if failed and not fetched:
        raise next(iter(failed.values()))
    return {"fetched": fetched, "failed": {text: str(error) for text, error in failed.items()}}


def source_of(reference: Reference, policy: EgressPolicy) -> RemoteSource:
    """By its scheme. Raises JobFailed: 400, which says what to install, 403 for a host that is not to be asked."""
    match reference.scheme:
        case "hf":
            source: RemoteSource = HubSource(reference)
        case "ms":
            source = ModelScopeSource(reference)
        case "s3":
            source = S3Source(reference)
        case _:
            source = HttpsSource(reference, policy)
    policy.check_host(source.host)
    return source
