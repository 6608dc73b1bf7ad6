"""The backends as of the latest set, and who may take a request. Pure: the time is an argument."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

from config import model_names
from config.model_names import AUTO, ModelRoute, Named
from config.topology import SPARE, BackendSet, BackendSpec
from lb.routing.backend import Backend, Shared
from lb.routing.model_offers import ModelOffers, first_name


class Pool:
    """``on_change`` is called after every change; whoever waits for a backend looks again then. ``share`` is asked
    where to count what is in flight on an incarnation of a backend, if there are other balancers. ``lost`` gets the
    backend, its incarnation and what is in flight on it when a worker is lost, before that is told so. ``on_room`` is
    called when a backend may take a request again without any new word (`Backend`). More methods than a class should
    have: a set comes in three steps, and the rest are questions of a few lines to what it said."""

    def __init__(
        self, on_change: Callable[[], None] = lambda: None,
        share: Callable[[str, int], Shared | None] = lambda backend, incarnation: None,
        lost: Callable[[str, int, int], None] = lambda backend, incarnation, requests: None,
        on_room: Callable[[], None] = lambda: None,
    ) -> None:
        self.backends: dict[str, Backend] = {}
        self.version = (0, 0)
        self.strategy = ""
        self.shutting_down = False
        self.registered: dict[str, dict[str, Any]] = {}
        self._on_change, self._share, self._lost, self._on_room = on_change, share, lost, on_room
        self._serving: dict[str | None, list[Backend]] = {}
        self._first_names: dict[str | None, str] = {}
        #: Names of models that were found to be known since the latest set: those of no route and no alias.
        self._known: set[str | None] = set()
        #: Routes and aliases, which go before models of their names.
        self.named: dict[str, Named] = {}
        self._told: dict[str, Any] = {}
        #: By adapter, the ids of the backends where it belongs, and its rank.
        self.placement: tuple[dict[str, tuple[str, ...]], dict[str, int]] = {}, {}
        #: Base models, where there may be several.
        self.offered = ModelOffers()

    def apply(self, new: BackendSet) -> bool:
        """Makes ``new`` the truth, unless it is older than what is there. Backends keep their counts as long as
        the incarnation is the same; what runs on a lost one is told so."""
        if new.version <= self.version:
            return False
        there = {spec.id for spec in new.backends}
        self._replace(new, [name for name in self.backends if name not in there])
        return True

    def change(self, base: tuple[int, int], new: BackendSet, gone: Collection[str]) -> bool:
        """The same of a set that leaves out the backends which are as in the set ``base``. False: it is not known here
        what that was."""
        if new.version <= self.version:
            return True
        if base != self.version:
            return False
        self._replace(new, gone)
        return True

    def _replace(self, new: BackendSet, gone: Collection[str]) -> None:
        self._say(new)
        before, self.backends = self.backends, dict(self.backends)
        touched = [b for name in (*gone, *(spec.id for spec in new.backends)) if (b := before.get(name)) is not None]
        ran = [(b, b.spec.incarnation) for b in touched if b.spec.managed and b.keeps_running()]
        self._serving, self._first_names = {}, {}
        for name in gone:
            self.backends.pop(name, None)
        for spec in new.backends:
            self.backends[spec.id] = self._renewed(before.get(spec.id), spec)
        for backend, incarnation in ran:
            now = self.backends.get(backend.id)
            if now is not backend or not now.keeps_running():
                self._lost(backend.id, incarnation, backend.in_flight)
        for backend in touched:
            if self.backends.get(backend.id) is not backend:
                backend.unshare()
                backend.evict("it has ended")
            elif not backend.keeps_running():
                backend.evict(f"it is {backend.spec.state}")
        self._on_change()

    def _say(self, new: BackendSet) -> None:
        """What holds of all backends."""
        self.version, self.strategy, self.shutting_down = new.version, new.strategy, new.shutting_down
        self.registered = {card["id"]: card for card in new.registered}
        self.offered = ModelOffers(new.models, self.registered)
        self._known.clear()
        self.placement = new.homes, new.ranks
        if new.names != self._told:
            self._told, self.named = new.names, _with_auto(model_names.read_all(new.names))

    def _renewed(self, old: Backend | None, spec: BackendSpec) -> Backend:
        """The same as long as its incarnation is."""
        if old is not None and (old.spec.incarnation == spec.incarnation or not spec.managed):
            if spec.state == "ready" and old.spec.state in ("unhealthy", "drained", SPARE):
                old.ejection.recovered()
            old.update(spec)
            old.missing_models.clear()
            return old
        if old is not None:
            old.unshare()
        # A server that is not ours is the same one whatever we call its incarnation.
        return Backend(spec, self._share(spec.id, spec.incarnation if spec.managed else 0), self._on_room)

    def candidates(
        self, model: str | None, excluded: Collection[str], now: float, root: str | None = None
    ) -> list[Backend]:
        """Those that may take a request for ``model``, of the version ``root`` if one is named. In a steady order;
        weight 0 only if there is no other."""
        found = [
            b
            for b in self.serving(model)
            if b.available(now) and b.id not in excluded
            and not (b.missing_models and b.is_missing(model, now))
            and (root is None or b.root(model) in (root, None))
        ]  # fmt: skip
        return [b for b in found if b.weight] or found

    def free_at(self, model: str | None, now: float, root: str | None, pinned: tuple[str, int] | None) -> float:
        """When a backend that cannot be asked for ``model`` now is going to be again, with time alone; ``inf``: never.
        ``pinned``: which one it has to be."""
        if pinned is not None:
            backend = self.backends.get(pinned[0])
            times = [backend.ejection.until] if backend is not None and backend.keeps_running() else []
        else:
            times = [
                max(b.ejection.until, b.missing_models.get(model, 0.0) if model is not None else 0.0)
                for b in self.serving(model)
                if b.takes_new and (root is None or b.root(model) in (root, None))
            ]
        return min((at for at in times if at > now), default=math.inf)

    def may_eject_slow(self, now: float) -> bool:
        """Whether one more may be left out for slowness: half of those in rotation, rounded down, but at least one. If
        all are slow it is the machine; a refused connection is no slowness."""
        rotation = [b for b in self.backends.values() if b.takes_new]
        out = sum(b.ejection.slow and b.ejection.active(now) for b in rotation)
        return out < max(1, len(rotation) // 2)

    def serving(self, model: str | None) -> list[Backend]:
        """All that serve ``model``, in rotation or not, in the order of their numbers."""
        found = self._serving.get(model)
        if found is None:
            found = sorted((b for b in self.backends.values() if self._may_serve(b, model)), key=lambda b: b.order)
            if found:
                self._serving[model] = found  # as many as there are names of models
        return found

    def first_name(self, model: str | None) -> str | None:
        """Of the names of one and the same base model the first; any other ``model`` as it is."""
        found = self._first_names.get(model)
        return self._find_first_name(model) if found is None else found

    def _find_first_name(self, model: str | None) -> str | None:
        if model is None:
            return None
        if model in self.registered:
            found = model
        elif (offered := self.offered.named(model)) is not None:
            found = offered.name
        elif serving := self.serving(model):
            found = first_name(serving[0].spec, model, self.registered)
        else:
            return model
        self._first_names[model] = found  # as many as there are names of models
        return found

    def _may_serve(self, backend: Backend, model: str | None) -> bool:
        """Where there are several models, only workers of the right one: not any other for a request that names none,
        nor one that has not said yet what it serves."""
        needed = self.offered.of(model) if self.offered else None
        if needed is None or not backend.spec.managed:
            return backend.serves(model) and (model is not None or not self.offered)
        return backend.spec.group == needed.group and backend.serves(model)

    def knows(self, model: str | None) -> bool:
        """Whether any backend serves ``model``, will when it is up, or can load it, and no route or alias is named so.
        Before the first set nothing is known."""
        return model in self._known or self._find_out(model)

    def _find_out(self, model: str | None) -> bool:
        if not self.backends and not self.offered:
            return True
        known = model not in self.named and self.exists(model)
        if known:
            self._known.add(model)
        return known

    def offers(self, model: str | None, models: frozenset[str]) -> bool:
        """Whether ``model`` is one of ``models``. None is the base model of whoever takes the request."""
        if model is not None:
            return model in models
        if (default := self.offered.default) is not None:
            return not models.isdisjoint(default.names)
        return all(
            any(card["id"] in models for card in backend.spec.models if card.get("parent") is None)
            for backend in self.backends.values()
        )

    def canonical(self, model: str | None) -> str | None:
        """``NAME`` for ``BASE:NAME``, as some clients write an adapter; anything else as it is. ``BASE`` is a name of
        the base model, or literally ``base_model``."""
        if model is None or ":" not in model or model in self.named or self.exists(model):
            return model
        at = -1
        while (at := model.find(":", at + 1)) >= 0:  # a base may have colons in its own name
            name = model[at + 1 :]
            if (name in self.named or self.exists(name)) and self._is_base(model[:at], name):
                return name
        return model

    def _is_base(self, base: str, name: str) -> bool:
        """Whether ``base`` may stand before ``name``: where there are several, of its own adapters only."""
        if base != "base_model" and (base in self.registered or not self.exists(base)):
            return False
        if not self.offered or name not in self.registered:
            return True
        return self.offered.of(name) is self.offered.named(None if base == "base_model" else base)

    def exists(self, model: str | None) -> bool:
        """As a model or an adapter: a backend serves it, will when it is up, or can load it."""
        return model in self.registered or self.offered.named(model) is not None or bool(self.serving(model))

    def names(self) -> list[str]:
        """Every model name there is."""
        return [card["id"] for card in self.models()]

    def hopeless(self, model: str | None) -> bool:
        """Whether no backend that serves ``model`` will come back by itself."""
        needed = self.offered.of(model) if model in self.registered else None
        lazy = model in self.registered
        serving = [
            b
            for b in self.backends.values()
            if self._may_serve(b, model)
            or (lazy and b.spec.managed and (needed is None or b.spec.group == needed.group))
        ]
        return bool(serving) and not any(b.may_recover() for b in serving)

    def in_flight(self) -> dict[str, int]:
        """Through this process."""
        return {b.id: b.in_flight for b in self.backends.values()}

    def waiting(self) -> dict[str, tuple[int, int]]:
        """Through this process, where there are any: requests that wait for the first byte of an answer, and the bytes
        of the largest body among them."""
        found = {b.id: b.waiting() for b in self.backends.values() if b.in_flight}
        return {name: waiting for name, waiting in found.items() if waiting[0]}

    def load(self) -> dict[str, int]:
        """What is in flight through all balancers."""
        return {b.id: b.load for b in self.backends.values()}

    def models(self) -> list[dict[str, Any]]:
        """The union of what the backends in rotation serve (of all, if none is), each model once, base models
        before adapters; and what routes and aliases are named."""
        ready = [b for b in self.backends.values() if b.spec.state == "ready"] or list(self.backends.values())
        cards: dict[str, dict[str, Any]] = {}
        for backend in ready:
            for card in backend.spec.models:
                cards.setdefault(card["id"], card)
        if self.offered:
            cards = {**self.offered.cards(), **cards}
        cards |= self.registered | {name: _card(name) for name in self.named}
        return sorted(cards.values(), key=lambda card: card.get("parent") is not None)


def _with_auto(named: dict[str, Named]) -> dict[str, Named]:
    """And the route that is asked by no name."""
    routes = [one for one in named.values() if isinstance(one, ModelRoute)]
    return {AUTO: routes[0], **named} if len(routes) == 1 else named


def _card(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "clusterctl"}
