"""Series of the answers that are kept."""

from __future__ import annotations

from lb.forwarding.caching.response_cache import ResponseCache
from lb.telemetry.metrics import Metrics


def add(cache: ResponseCache | None, metrics: Metrics) -> None:
    """Without a ``cache`` they have no values."""
    metrics.read(
        "clusterctl_response_cache_requests_total", "Requests whose answers are kept, by whether one was there",
        ("result",),
        lambda: [] if cache is None else [(("hit",), float(cache.hits)), (("miss",), float(cache.misses))],
    )
    metrics.read(
        "clusterctl_response_cache_answers", "Answers that are kept", (),
        lambda: [] if cache is None else [((), float(len(cache)))],
    )
    metrics.read(
        "clusterctl_response_cache_bytes", "Memory that they take", (),
        lambda: [] if cache is None else [((), float(cache.bytes))],
    )  # fmt: skip
