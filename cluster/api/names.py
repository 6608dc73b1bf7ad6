"""Changes of routes and aliases. Each runs in the task that owns the state."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from cluster.adapters.registry import Registry
from cluster.api.schemas import AliasBody, NoFields, RouteBody
from cluster.errors import Refused
from cluster.events import Emit
from cluster.fleet.fleet import Fleet
from config import model_names
from config.errors import nearest
from config.model_names import ModelAlias, Named, version_of


class NameCommands:
    """``registry()``: the adapters; ``models()``: names of the other models; ``changed()``: workers may have to hold
    other versions of adapters now."""

    def __init__(
        self, fleet: Fleet, registry: Callable[[], Registry], models: Callable[[], Collection[str]],
        changed: Callable[[], None], emit: Emit,
    ) -> None:
        self._fleet, self._registry, self._models, self._changed, self._emit = fleet, registry, models, changed, emit

    def every(self, kind: str) -> dict[str, Any]:
        """``aliases`` or ``routes``, by name."""
        found = self._fleet.intent.names.in_force()
        return {kind: {name: what for name, what in found.items() if _kind(what) == kind}}

    def set_alias(self, name: str, body: AliasBody) -> dict[str, Any]:
        return self._set(name, lambda: model_names.alias(body.model_dump()))

    def set_route(self, name: str, body: RouteBody) -> dict[str, Any]:
        return self._set(name, lambda: model_names.route(body.model_dump()))

    def delete(self, kind: str, name: str, body: NoFields) -> dict[str, Any]:
        """Of the ``kind`` only (as `every` has it), as all that is asked for by one."""
        known = self.every(kind)[kind]
        if name not in known:
            raise Refused(404, f"{kind} have no {name!r}{nearest(name, known)}", "name")
        self._fleet.intent.names.change(name, None)
        return self._done(name, "deleted")

    def undo(self, kind: str, name: str, body: NoFields) -> dict[str, Any]:
        names = self._fleet.intent.names
        if kind not in {_kind(what) for what in names.undoable(name) if what is not None}:
            raise Refused(404, f"{kind} have no {name!r} that was changed: there is nothing to go back to", "name")
        names.undo(name)
        return self._done(name, "put back")

    def _set(self, name: str, read: Callable[[], Named]) -> dict[str, Any]:
        try:
            model_names.check_name(name)
            named = read()
        except ValueError as error:
            raise Refused(400, str(error)) from None
        for model in named.models:
            self._check_model(name, model, isinstance(named, ModelAlias))
        self._fleet.intent.names.change(name, named.to_json())
        return self._done(name, "set")

    def _check_model(self, name: str, model: str, alias: bool) -> None:
        """Raises Refused (404)."""
        registry = self._registry()
        if (version := version_of(model)) is not None and (adapter := registry.adapters.get(version[0])) is not None:
            kept = [each.number for each in adapter.versions]
            if version[1] not in kept:
                numbers = ", ".join(map(str, kept))
                raise Refused(404, f"adapter {version[0]!r} has no version {version[1]}; kept: {numbers}", "sides")
            return
        aliases = set() if alias else set(self.every("aliases")["aliases"])
        known = {*registry.adapters, *self._models(), *aliases}
        if model not in known:
            raise Refused(404, f"{name!r} cannot stand for {model!r}: no such model{nearest(model, known)}", "sides")

    def _done(self, name: str, what: str) -> dict[str, Any]:
        now = self._fleet.intent.names.find(name)
        self._changed()
        self._emit("cluster", f"{name} {what}", kind="names", data={"name": name, "now": now})
        return {"name": name, "now": now}


def _kind(definition: dict[str, Any]) -> str:
    return "routes" if "rules" in definition else "aliases"
