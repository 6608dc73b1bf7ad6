"""What the supervisor tells of a cluster's jobs, as series."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from lb.telemetry.metrics import Metrics

_Values = Iterable[tuple[tuple[str, ...], float]]


def add(metrics: Metrics, alike: set[str], jobs: Callable[[], Mapping[str, Any]]) -> None:
    """``jobs``: of the snapshot, empty where there are none; ``alike``: as `lb.admin.metrics.MetricsPage` has it."""

    def counted(key: str) -> _Values:
        for seen in jobs().get(key, ()):
            yield (seen["kind"], seen["state"]), float(seen["count"])

    def seconds() -> _Values:
        for kind, spent in jobs().get("seconds", {}).items():
            yield (kind,), float(spent)

    for name, meaning, labels, values in (
        ("clusterctl_jobs", "Jobs that wait or run", ("kind", "state"), partial(counted, "open")),
        ("clusterctl_jobs_ended_total", "Jobs that have ended, by how", ("kind", "state"), partial(counted, "ended")),
        ("clusterctl_job_seconds_total", "Seconds that jobs took that have ended", ("kind",), seconds),
    ):
        alike.add(name)
        metrics.read(name, meaning, labels, values)
