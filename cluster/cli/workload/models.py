"""Which model is asked."""

from __future__ import annotations

from cluster.client import ClusterClient, ClusterError
from config.errors import UsageError, nearest


def chosen(cluster: ClusterClient, name: str | None) -> str:
    """``name`` if it is served, or the base model. Raises ClusterError and UsageError."""
    cards = cluster.models()
    known = [str(card["id"]) for card in cards]
    if name is None:
        base = [str(card["id"]) for card in cards if not card.get("parent")] or known
        if not base:
            raise ClusterError("the cluster serves no model now")
        return base[0]
    if name not in known and name.partition(":")[2] not in known:
        raise UsageError(f"no model {name!r}{nearest(name, known)}; there are: {', '.join(known)}", 2)
    return name
