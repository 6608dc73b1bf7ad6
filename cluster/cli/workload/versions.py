"""Versions of adapters that nobody asks for otherwise, kept loaded while they are asked here."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator, Sequence

from cluster.cli.common import client
from cluster.cli.render import say
from cluster.client import ClusterClient, ClusterError
from config import model_names

#: How long (s) they may take to be there.
_PATIENCE = 600.0


@contextlib.contextmanager
def served(cluster: ClusterClient, url: str | None, models: Sequence[str], purpose: str) -> Iterator[None]:
    """Those of ``models`` that are versions (``NAME@N``) can be asked for meanwhile. What is not served is loaded by an
    alias that leads to all of them (decision 40), named by ``purpose``, and goes with it in the end; one that a killed
    run has left goes too. Raises ClusterError."""
    versions = [model for model in models if model_names.version_of(model) is not None]
    digest = hashlib.sha256("\0".join([purpose, *versions]).encode()).hexdigest()
    name = f"temporary-{digest[:12]}"
    known = _known(cluster)
    if name not in known and all(version in known for version in versions):
        yield
        return
    with client(url) as manager:
        try:
            manager.set_alias(name, dict.fromkeys(versions, 1.0))
        except ClusterError as error:
            raise ClusterError(f"{', '.join(versions)} cannot be loaded: {error}", error.status) from None
        try:
            _wait(cluster, versions)
            yield
        finally:
            try:
                manager.delete_alias(name)
            except ClusterError as error:
                say(f"the alias {name} is left behind: {error}; clusterctl alias delete {name}", err=True)


def _known(cluster: ClusterClient) -> set[str]:
    return {str(card["id"]) for card in cluster.models()}


def _wait(cluster: ClusterClient, versions: Sequence[str]) -> None:
    end = time.monotonic() + _PATIENCE
    while missing := [version for version in versions if version not in _known(cluster)]:
        if time.monotonic() > end:
            raise ClusterError(f"{', '.join(missing)}: not loaded within {_PATIENCE:g} s")
        time.sleep(0.2)
