"""What the supervisor tells of the nodes on which workers run, as series."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from lb.telemetry.metrics import Metrics

_Values = Iterable[tuple[tuple[str, ...], float]]


def add(metrics: Metrics, alike: set[str], nodes: Callable[[], Sequence[Mapping[str, Any]]]) -> None:
    """``nodes``: of the snapshot, empty where workers run on this machine; ``alike``: as `lb.admin.metrics.MetricsPage`
    has it."""

    def column(value: Callable[[Mapping[str, Any]], float | None]) -> _Values:
        for node in nodes():
            if (found := value(node)) is not None:
                yield (node["name"],), float(found)

    def places() -> _Values:
        for node in nodes():
            for instance in node["instances"]:
                yield (instance, node["name"]), 1.0

    for name, meaning, labels, values in (
        ("clusterctl_node_up", "1 if workers may be started on that node", ("node",),
         partial(column, lambda node: node["state"] == "up")),
        ("clusterctl_node_heard_seconds", "Seconds since the last word of its agent", ("node",),
         partial(column, lambda node: node["heard_s"])),
        ("clusterctl_node_gpus", "GPUs that it has", ("node",), partial(column, lambda node: node["gpus"])),
        ("clusterctl_node_free_gpus", "GPUs of it that nobody holds", ("node",),
         partial(column, lambda node: node["free_gpus"])),
        ("clusterctl_instance_node", "1 for the node on which it runs", ("instance", "node"), places),
    ):  # fmt: skip
        alike.add(name)
        metrics.read(name, meaning, labels, values)
