"""The backend set for the balancers, put together from what is known of workers and adapters. Pure.

It is asked for after everything that happens, and of a thousand workers nearly all are as they were then: what follows
for one is kept with what it followed from, and made anew when that is another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from cluster.adapters.inventory import Inventory
from cluster.adapters.registry import Registry, card
from cluster.deployment.plan import Plan
from cluster.deployment.revisions import Revisions
from cluster.fleet.fleet import Fleet
from cluster.fleet.groups import group_of
from cluster.fleet.instance import Instance
from cluster.monitoring.external import ExternalBackend
from config.topology import ADAPTIVE, AUTO_STRATEGY, PLAIN, BackendSet, BackendSpec, OfferedModel
from worker.spec import WorkerEndpoint

Cards = tuple[dict[str, Any], ...]

_T = TypeVar("_T")


class _Derived:
    """By worker, what was found last."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Any, Any]] = {}

    def of(self, worker: str, source: tuple[Any, ...], make: Callable[[], _T]) -> _T:
        """What ``make()`` makes of ``source``: the same object as long as that is equal."""
        kept = self._found.get(worker)
        if kept is None or kept[0] != source:
            kept = self._found[worker] = source, make()
        found: _T = kept[1]
        return found

    def forget_others(self, there: Collection[str]) -> None:
        """Than those that are there."""
        for name in self._found.keys() - there:
            del self._found[name]


@dataclass(frozen=True, slots=True)
class Backends:
    """What the backend set follows from. ``offered()``: the models, where there may be several."""

    fleet: Fleet
    external: Sequence[ExternalBackend]
    inventory: Inventory
    revisions: Revisions
    offered: Callable[[], tuple[OfferedModel, ...]]
    _specs: _Derived = field(default_factory=_Derived)
    _cards: _Derived = field(default_factory=_Derived)

    def strategy(self) -> str:
        """The one in force. With slots to spare `adaptive` has little to go by, and near its limit a cluster with one
        adapter or none carries a little less by it."""
        wanted = self.fleet.intent.strategy
        if wanted != AUTO_STRATEGY:
            return wanted
        adapters = Counter(adapter.group for adapter in self.inventory.everything.adapters.values())
        crowded = any(
            not plan.no_lora and adapters[name] > plan.spec.max_loras
            for name, plan in self.revisions.plans.items()
        )
        return ADAPTIVE if crowded else PLAIN

    def as_of(self, version: tuple[int, int]) -> BackendSet:
        """All upstreams as of now, under that version."""
        intent = self.fleet.intent
        external = [
            replace(
                backend.spec, state=intent.cordons.shown(backend.id, backend.spec.state),
                weight=intent.weights.get(backend.id, 1), models=self._cards_of_external(backend),
            )
            for backend in self.external
        ]
        started = [instance for instance in self.fleet.instances.values() if instance.spec]
        wanted = self.inventory.wanted_by_all(instance.id for instance in started)
        self._specs.forget_others(wanted)
        self._cards.forget_others(self.fleet.instances)
        return BackendSet(
            epoch=version[0], revision=version[1], strategy=self.strategy(),
            backends=(*(self._backend(one, wanted[one.id]) for one in started), *external),
            shutting_down=intent.desired.shutting_down,
            registered=self._registered(), names=intent.names.in_force(), homes=self._homes(), ranks=self._ranks(),
            models=self.offered(),
        )

    def _registered(self) -> Cards:
        """Of all adapters whose model is there."""
        models = {name: group.model for name, group in self.fleet.intent.desired.groups.items()}
        every = self.inventory.everything.adapters.values()
        return tuple(card(a, models[a.group], a.current.path) for a in every if a.group in models)

    def _homes(self) -> dict[str, tuple[str, ...]]:
        """Of those where the adapter is by now."""
        if not self.inventory.homes:
            return {}
        held = {each.id: each.adapters for each in self.fleet.instances.values()}
        held |= {each.id: each.adapters for each in self.external}
        found = {
            name: tuple(id for id in ids if id in held and held[id].serves(name))
            for name, ids in self.inventory.homes.items()
        }
        return {name: ids for name, ids in found.items() if ids}

    def _ranks(self) -> dict[str, int]:
        """Only where somebody goes by them."""
        if self.strategy() != ADAPTIVE:
            return {}
        return {name: adapter.current.rank for name, adapter in self.inventory.everything.adapters.items()}

    def _backend(self, instance: Instance, wanted: Mapping[str, str]) -> BackendSpec:
        """``wanted``: the adapters that it should hold."""
        spec, intent = instance.spec, self.fleet.intent
        assert spec is not None and instance.endpoint is not None
        source = (
            instance.id, instance.incarnation, intent.shown(instance.id, str(instance.state)), instance.endpoint,
            intent.weights.get(instance.id, 1), spec.api_key, self.cards(instance), wanted,
            self.revisions.plans[instance.group], instance.seats,
        )  # fmt: skip
        return self._specs.of(instance.id, source, lambda: _spec(*source))

    def cards(self, instance: Instance) -> Cards:
        """The models it may be sent requests for: its base models, and the registry's adapters that it holds now."""
        foreign, held = self.revisions.plans[instance.group].foreign_adapters, instance.adapters
        registry = self.inventory.of(instance.id) if held.loaded else Registry()
        source = instance.models, foreign, registry, dict(held.loaded), set(held.withheld)
        return self._cards.of(instance.id, source, lambda: _cards(*source))

    def _cards_of_external(self, backend: ExternalBackend) -> Cards:
        """What it says it serves; where its adapters are ours to manage, as for our own workers."""
        if backend.agent is None:
            return backend.spec.models
        own = tuple(c for c in backend.spec.models if not c.get("parent"))
        return _with_adapters(own, self.inventory.of(backend.id), backend.adapters.loaded, backend.adapters.withheld)


def _spec(
    name: str, incarnation: int, state: str, where: WorkerEndpoint, weight: int, key: str, cards: Cards,
    wanted: Iterable[str], plan: Plan, seats: int | None,
) -> BackendSpec:  # fmt: skip
    able = plan.engine.capabilities
    return BackendSpec(
        id=name, incarnation=incarnation, state=state, scheme=where.scheme, host=where.host, ip=where.host,
        port=where.port, weight=weight, api_key=key, models=cards, expected=(*plan.spec.served_names, *wanted),
        capabilities=able, seats=seats, slots=plan.spec.max_loras if able.lora else None,
        places=plan.adapter_cap if able.lora else None, group=group_of(name),
    )  # fmt: skip


def _cards(
    models: Cards, foreign: Collection[str], registry: Registry, loaded: Mapping[str, str], withheld: Collection[str]
) -> Cards:
    own = tuple(c for c in models if not c.get("parent") or c["id"] in foreign)
    return _with_adapters(own, registry, loaded, withheld) if loaded else own


def _with_adapters(own: Cards, registry: Registry, loaded: Mapping[str, str], withheld: Collection[str]) -> Cards:
    if not own:
        return ()
    held = (registry.adapters[name] for name in registry.adapters if name in loaded and name not in withheld)
    return (*own, *(card(adapter, own[0]["id"], loaded[adapter.name]) for adapter in held))
