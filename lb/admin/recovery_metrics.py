"""How long the supervisor took to notice losses and to bring workers back, as series."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

_SERIES = {
    "detect": ("clusterctl_detect_seconds", "From a worker's last sign of life to its being taken out, by cause"),
    "restore": ("clusterctl_restore_seconds", "From a worker's loss until it was ready again, by cause"),
}

#: Every balancer process reads them from the same place.
NAMES = frozenset(f"{name}{suffix}" for name, _ in _SERIES.values() for suffix in ("_bucket", "_sum", "_count"))


class RecoverySeries(Collector):
    """``read()`` gives the supervisor's times: a snapshot's ``recovery``."""

    def __init__(self, read: Callable[[], dict[str, Any]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        seen = self._read()
        bounds = [*seen.get("bounds", ()), float("inf")]
        for key, (name, meaning) in _SERIES.items():
            family = HistogramMetricFamily(name, meaning, labels=["cause"])
            for cause, times in seen.get(key, {}).items():
                so_far, buckets = 0, []
                for bound, count in zip(bounds, times["buckets"], strict=True):
                    so_far += count
                    buckets.append((str(floatToGoString(bound)), so_far))  # type: ignore[no-untyped-call]
                family.add_metric([cause], buckets, times["sum"])
            yield family

    def describe(self) -> Iterable[Metric]:
        return []
