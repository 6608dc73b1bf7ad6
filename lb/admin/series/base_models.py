"""What the supervisor tells of the base models of a cluster that has several, as series."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from config.topology import MODEL_STATES
from lb.telemetry.metrics import Metrics
from lb.telemetry.model_metrics import MOST

_Values = Iterable[tuple[tuple[str, ...], float]]


def add(metrics: Metrics, alike: set[str], models: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
    """``models``: those of the snapshot, the first `MOST` of which have series; ``alike``: as
    `lb.admin.metrics.MetricsPage` has it."""

    def states() -> _Values:
        for model in models()[:MOST]:
            for state in MODEL_STATES:
                yield (model["name"], state), float(model.get("state") == state)

    def column(key: str) -> _Values:
        for model in models()[:MOST]:
            yield (model["name"],), float(model.get(key) or 0)

    name = "clusterctl_model_state"
    alike.add(name)
    metrics.read(name, "1 for the state that a base model is in", ("model", "state"), states)
    for name, meaning, key in (
        ("clusterctl_model_starts_total", "Times that a base model was brought up", "swaps"),
        ("clusterctl_model_start_failures", "Starts of a base model that failed since it was up", "failures"),
        ("clusterctl_model_memory_bytes", "Main memory that its workers are reckoned with", "memory_bytes"),
        ("clusterctl_model_oldest_wait_seconds", "How long the oldest request that waits for it has", "oldest_wait_s"),
    ):
        alike.add(name)
        metrics.read(name, meaning, ("model",), partial(column, key))
