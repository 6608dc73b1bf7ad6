"""How it is with limits that clusters on several machines share, as series."""

from __future__ import annotations

from lb.control.limits_store import LimitsStore
from lb.telemetry.metrics import Metrics

#: Every process says the same of it.
UP = "clusterctl_limits_store_up"


def add(store: LimitsStore | None, metrics: Metrics, alike: set[str]) -> None:
    """``alike``: as `lb.admin.metrics.MetricsPage` has it. Without a ``store`` they have no values."""
    alike.add(UP)
    metrics.read(
        UP, "1 while keys' limits are shared with other machines; nothing where they are not to be", (),
        lambda: [] if store is None else [((), float(store.reason == ""))],
    )
    metrics.read(
        "clusterctl_limits_store_messages_total", "Messages to the store of limits, by what became of them",
        ("outcome",),
        lambda: [] if store is None else [
            (("answered",), float(store.answered)), (("failed",), float(store.failed)),
        ],
    )  # fmt: skip
