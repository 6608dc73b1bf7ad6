"""A typed client of the management API, for programs; the command line is its first user.

    from cluster.client import ClusterClient

    with ClusterClient("http://127.0.0.1:8000") as cluster:
        cluster.scale(3)
        cluster.wait_ready(3, timeout=60)

`AsyncClusterClient` has the same methods to await. What both share does no I/O: `calls` (what each method asks, and how
its answer is read), `core` (requests, errors), `workflows` (several calls in a row: waiting), `streams`.
"""

from cluster.client.asynchronous import AsyncClusterClient
from cluster.client.core import SLOW, ClusterError
from cluster.client.results import (
    Adapter,
    AdapterChanged,
    AdapterDetail,
    AdapterUnloaded,
    Applied,
    Drained,
    Event,
    Instance,
    Key,
    KeyRevoked,
    KeyWithSecret,
    Model,
    Restarting,
    Scaled,
    ShuttingDown,
    Status,
    StrategySet,
    SystemHealth,
    SystemMetrics,
    UiLink,
    Weighted,
)
from cluster.client.sync import ClusterClient

__all__ = [
    "SLOW", "Adapter", "AdapterChanged", "AdapterDetail", "AdapterUnloaded", "Applied", "AsyncClusterClient",
    "ClusterClient", "ClusterError", "Drained", "Event", "Instance", "Key", "KeyRevoked", "KeyWithSecret", "Model",
    "Restarting", "Scaled", "ShuttingDown", "Status", "StrategySet", "SystemHealth", "SystemMetrics", "UiLink",
    "Weighted",
]  # fmt: skip
