"""What several commands share: where the cluster is, and how waiting looks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cluster.client import ClusterClient
from cluster.commands import BALANCER
from config.settings import cluster_url, own_admin_key

F = TypeVar("F", bound=Callable[..., Any])

#: How long (s) a change is waited for: the start of a real engine takes minutes.
PATIENCE = 900.0


def url_option(function: F) -> F:
    return click.option(
        "--url", default=None, help="The cluster's URL; default CLUSTERCTL_URL or http://127.0.0.1:8000."
    )(function)


def no_wait_option(function: F) -> F:
    return click.option("--no-wait", is_flag=True, help="Return at once; the change goes on.")(function)


def client(url: str | None) -> ClusterClient:
    return ClusterClient(url or cluster_url(), own_admin_key())


def state_dir_option(function: F) -> F:
    return click.option("--state-dir", type=click.Path(path_type=Path), default=None, help="Its state directory.")(
        function
    )


def finish(cluster: ClusterClient, no_wait: bool, done: str, only: str | None = None) -> int:
    """Waits until the cluster has settled, says ``done``, and returns the exit code: 1 if an instance (or ``only``
    that one) has failed."""
    if no_wait:
        return 0
    status = cluster.wait_settled(PATIENCE)
    if only in BALANCER:
        if why := status["load_balancer"].get("failure"):
            click.echo(f"the load balancer could not be replaced: {why}", err=True)
            return 1
        pids = ", ".join(str(process["pid"]) for process in status["load_balancer"]["processes"])
        click.echo(f"{done}: load balancer {pids}")
        return 0
    failed = [n for n, i in status["instances"].items() if i["state"] == "failed" and only in (None, n)]
    if failed:
        for name in failed:
            click.echo(f"{name} has failed: {status['instances'][name]['reason']}", err=True)
        return 1
    click.echo(f"{done}: {status['running_instances']} of {status['total_instances']} ready")
    return 0
