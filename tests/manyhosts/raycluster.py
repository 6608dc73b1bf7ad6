"""A Ray of several hosts, as somebody would keep it up: what ends of it is started again, and the head has a Redis."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from harness import poll
from manyhosts.namespaces import OWN, Host

PORT, _REDIS = 6380, 6379

#: Of everything that belongs to Ray, and of the cluster that uses it.
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-for-the-rays-of-tests-only", "RAY_USAGE_STATS_ENABLED": "0",
    # A host that is gone is known to be gone in seconds, and not in a minute.
    "RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "5", "RAY_enable_metrics_collection": "0",
}  # fmt: skip

_RAY = str(Path(sys.executable).with_name("ray"))


def start(hosts: Sequence[Host], head: Host) -> str:
    """On all of them; the address of the head."""
    for host in (head, *(one for one in hosts if one is not head)):
        start_on(host, head)
    logs = [host.folder / "log" for host in hosts]
    poll(lambda: all(b"runtime started" in log.read_bytes() for log in logs), 90, "Ray on each host")
    return f"{head.address}:{PORT}"


def start_on(host: Host, head: Host) -> None:
    """Returns at once."""
    more = {}
    given = [f"--address={head.address}:{PORT}"]
    if host is head:
        kept = ("--dir", str(OWN), "--appendonly", "yes")  # what it has outlives its host's being killed
        host.start("redis-server", "--port", str(_REDIS), "--bind", "127.0.0.1", *kept)
        given = ["--head", f"--port={PORT}", f"--temp-dir={OWN}/ray", "--include-dashboard=false"]
        more = {"RAY_REDIS_ADDRESS": f"127.0.0.1:{_REDIS}"}
    ray = shlex.join([
        _RAY, "start", "--block", f"--node-ip-address={host.address}", *given, "--num-cpus=1", "--min-worker-port=0",
        "--max-worker-port=0", "--object-store-memory=80000000", "--disable-usage-stats", "--include-log-monitor=false",
    ])  # fmt: skip
    host.start("bash", "-c", f"while :; do {ray}; sleep 0.5; done", **ENVIRONMENT, **more)
