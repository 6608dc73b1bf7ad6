"""Which model is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cluster.client import ClusterClient, ClusterError
from cluster.client.results import Model
from cluster.client.status import ClusterModel
from config.errors import UsageError, nearest


def base_models(cards: Iterable[Model]) -> dict[str, Model]:
    """Those that are neither adapters nor only names: routes and aliases are listed without any parent."""
    own = (card for card in cards if "parent" in card or card.get("owned_by") != "clusterctl")
    return {card["id"]: card for card in own if not card.get("parent")}


def distinct(bases: Mapping[str, Model], managed: Iterable[ClusterModel] = ()) -> list[str]:
    """The first name of each of ``bases``: one model may have several. ``managed``: those of a cluster that has more
    than one."""
    of = {name: model["name"] for model in managed for name in model["names"]}
    first: dict[str, str] = {}
    for name, card in bases.items():
        first.setdefault(of.get(name) or str(card.get("root") or name), name)
    return list(first.values())


def chosen(cluster: ClusterClient, name: str | None) -> str:
    """``name`` if it is served, or the base model. Raises ClusterError and UsageError."""
    cards = cluster.models()
    known = [str(card["id"]) for card in cards]
    if name is None:
        base = list(base_models(cards)) or known
        if not base:
            raise ClusterError("the cluster serves no model now")
        return base[0]
    if name not in known and name.partition(":")[2] not in known:
        raise UsageError(f"no model {name!r}{nearest(name, known)}; there are: {', '.join(known)}", 2)
    return name
