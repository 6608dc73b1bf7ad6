"""Which base models the cluster has, loaded or not, and which of them a request needs. Pure.

Only of a cluster that may have several; elsewhere nothing is offered, and what workers serve says it all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from config.topology import BackendSpec, OfferedModel


class ModelOffers:
    """``adapters``: the cards of all adapters, by name; each tells the base model it belongs to as its ``parent``."""

    def __init__(
        self, models: Sequence[OfferedModel] = (), adapters: Mapping[str, Mapping[str, Any]] | None = None
    ) -> None:
        self.models = tuple(models)
        self._by_name = {name: model for model in models for name in (model.name, *model.names)}
        self._adapters = adapters or {}
        self._by_group = {model.group: model for model in models}
        self.default = next((model for model in models if model.is_default), None)

    def __bool__(self) -> bool:
        return bool(self.models)

    def named(self, model: str | None) -> OfferedModel | None:
        """The one of that name; of None the one that answers requests which name none."""
        return self.default if model is None else self._by_name.get(model)

    def of(self, model: str | None) -> OfferedModel | None:
        """The one whose workers a request for ``model``, which may be an adapter, needs."""
        found = self.named(model)
        if found is None and model is not None and (adapter := self._adapters.get(model)) is not None:
            found = self._by_name.get(str(adapter.get("parent")))
        return found

    def of_group(self, group: str) -> OfferedModel | None:
        return self._by_group.get(group)

    def absent(self, model: str | None) -> OfferedModel | None:
        """The one that a request for ``model`` has to wait for: it is not up."""
        if not self.models:
            return None
        found = self.of(model)
        return None if found is None or found.state == "up" else found

    def strategy(self, group: str) -> str:
        """How workers of a group are chosen from; "": as in the whole cluster."""
        found = self._by_group.get(group)
        return "" if found is None else found.strategy

    def cards(self) -> dict[str, dict[str, Any]]:
        """Of all of them, as `/v1/models` shows them: what they are doing besides."""
        return {
            name: {"id": name, "object": "model", "created": 0, "owned_by": "clusterctl", "parent": None}
            for model in self.models
            for name in model.names
        }

    def status(self, card: Mapping[str, Any]) -> dict[str, Any]:
        """What ``card`` says of a model or an adapter besides: ``status``, and the ``reason`` why it is not up."""
        found = self.of(str(card["id"]))
        if found is None:
            return {}
        return {"status": found.state, **({"reason": found.why} if found.state == "failed" and found.why else {})}


def first_name(spec: BackendSpec, model: str, adapters: Collection[str]) -> str:
    """Of those by which this server serves what ``model`` is a name of. Of our own workers the names are known; cards
    of others say by their root that two are the same."""
    given = [name for name in spec.expected if name not in adapters] if spec.managed else []
    if model in given:
        return given[0]
    roots = {str(card["id"]): card.get("root") for card in spec.models if card.get("parent") is None}
    if (root := roots.get(model)) is None:
        return model
    return next(name for name, other in roots.items() if other == root)
