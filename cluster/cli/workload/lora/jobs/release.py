"""What was trained becomes the next version of an adapter, at once or for a share of who asks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cluster.cli.common import client
from cluster.cli.render import say
from cluster.cli.workload.lora.change import changed
from cluster.client import ClusterClient, ClusterError
from config.errors import UsageError


class TrafficShare(click.ParamType[float]):
    """``10%`` or ``10``, as percent between 0 and 100."""

    name = "percent"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            share = float(str(value).removesuffix("%"))
        except ValueError:
            share = 0.0
        if not 0 < share < 100:
            self.fail(f"{value!r} is no share such as 10%", param, ctx)
        return share


def check(url: str | None) -> None:
    """Raises ClusterError unless there is a cluster to load into: before hours of training, not after."""
    with client(url) as cluster:
        cluster.adapters()


def release(url: str | None, name: str, path: Path, model: str | None, canary: float | None) -> int:
    """Loads the adapter in ``path`` as ``name``, or as its next version; with ``canary`` that many in a hundred of who
    asks for ``name`` are answered by it, the others by the version of before. Raises ClusterError."""
    with client(url) as cluster:
        before = _active(cluster, name)
        if before is None:
            changed(cluster, name, lambda: cluster.load_adapter(name, path, model=model))
            if canary is not None:
                say("it is the first version: there is no other to share with", err=True)
            return 0
        if canary is None:
            changed(cluster, name, lambda: cluster.load_adapter(name, path, replace=True))
            return 0
        return _canary(cluster, name, path, f"{name}@{before}", canary)


def _active(cluster: ClusterClient, name: str) -> int | None:
    try:
        return int(cluster.adapter(name)["version"])
    except ClusterError as error:
        if error.status != 404:
            raise
        return None


def _canary(cluster: ClusterClient, name: str, path: Path, active: str, share: float) -> int:
    """Who asks for the name is kept on the version of before while the next one is loaded: it would be theirs at
    once."""
    found = cluster.aliases().get(name)
    stable = active if found is None else max(found["sides"], key=lambda side: float(found["sides"][side]))
    if found is None:
        cluster.set_alias(name, {stable: 100})
    try:
        result = changed(cluster, name, lambda: cluster.load_adapter(name, path, replace=True))
    except ClusterError:
        if found is None:
            cluster.delete_alias(name)
        raise
    new = f"{name}@{result['version']}"
    if new == stable:
        if found is None:
            cluster.delete_alias(name)
        raise UsageError(f"it is the same as {stable}: there is nothing to share", exit_code=1)
    cluster.set_alias(name, {stable: 100 - share, new: share})
    say(f"{name}: {stable} {100 - share:g} %, {new} {share:g} %")
    say(f"for all: clusterctl alias delete {name}; for none: clusterctl lora rollback {name}, then the same")
    return 0
