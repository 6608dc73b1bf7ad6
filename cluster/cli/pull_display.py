"""How far the cluster is with what a reference means, while a command waits for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, cast

from cluster.cli.job_display import JobDisplay
from cluster.cli.render import console
from cluster.client import ClusterClient, ClusterError
from config.jobs.said import JobProgress
from config.values.references import is_reference, parse

#: Seconds between two looks.
_LOOK_EVERY = 0.25


@contextlib.contextmanager
def looking(look: Callable[[Callable[[], bool]], None]) -> Iterator[None]:
    """Calls ``look`` again and again in a thread, until the body is done. It is given a function that says whether the
    body is: what came late must not stand below the result."""
    done = threading.Event()

    def run() -> None:
        while not done.wait(_LOOK_EVERY):
            look(done.is_set)

    thread = threading.Thread(target=run, name="looking", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(1.0)  # no longer: its last question may wait for an answer that does not come


@contextlib.contextmanager
def pull_shown(cluster: ClusterClient, source: str) -> Iterator[None]:
    """On standard error, how much of ``source`` is fetched, if it is a reference, until the body is done."""
    shown = _shown(source)
    if shown is None:
        yield
        return
    with JobDisplay(console(stderr=True)) as display:

        def look(_: Callable[[], bool]) -> None:
            if (progress := _pull(cluster, shown)) is not None:
                display.show(progress)

        with looking(look):
            yield


def _shown(source: str) -> str | None:
    try:
        return str(parse(source)) if is_reference(source) else None
    except ValueError:  # whoever is asked for it says what is wrong
        return None


def _pull(cluster: ClusterClient, shown: str) -> JobProgress | None:
    """How far the job is that fetches it, while it runs. Looking must never fail a change."""
    try:
        latest = (cast(Any, cluster.status()).get("jobs") or {}).get("latest", ())
    except ClusterError:
        return None
    running = [job["progress"] for job in latest if job["kind"] == "pull" and job["state"] == "running"]
    return next((JobProgress(**one) for one in running if one and one["stage"].endswith(shown)), None)
