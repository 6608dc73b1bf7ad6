"""The backend set for the balancers, put together from what is known of workers and adapters. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cluster.adapters.inventory import Inventory
from cluster.adapters.registry import Registry, card
from cluster.deployment.revisions import Revisions
from cluster.fleet.fleet import Fleet
from cluster.fleet.instance import HeldAdapters, Instance
from cluster.monitoring.external import ExternalBackend
from config.topology import ADAPTIVE, AUTO_STRATEGY, PLAIN, BackendSet, BackendSpec, OfferedModel

Cards = tuple[dict[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Backends:
    """What the backend set follows from. ``offered()``: the models, where there may be several."""

    fleet: Fleet
    external: Sequence[ExternalBackend]
    inventory: Inventory
    revisions: Revisions
    offered: Callable[[], tuple[OfferedModel, ...]]

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

    def _backend(self, instance: Instance, wanted: Iterable[str]) -> BackendSpec:
        """``wanted``: names of the adapters that it should hold."""
        spec, where, intent = instance.spec, instance.endpoint, self.fleet.intent
        plan = self.revisions.plans[instance.group]
        assert spec is not None and where is not None
        return BackendSpec(
            id=instance.id, incarnation=instance.incarnation,
            state=intent.shown(instance.id, str(instance.state)), scheme=where.scheme,
            host=where.host, ip=where.host, port=where.port, weight=intent.weights.get(instance.id, 1),
            api_key=spec.api_key, models=self.cards(instance),
            expected=(*plan.spec.served_names, *wanted),
            capabilities=plan.engine.capabilities, seats=instance.seats,
            slots=plan.spec.max_loras if plan.engine.capabilities.lora else None,
            places=plan.adapter_cap if plan.engine.capabilities.lora else None, group=instance.group,
        )

    def cards(self, instance: Instance) -> Cards:
        """The models it may be sent requests for: its base models, and the registry's adapters that it holds now."""
        foreign = self.revisions.plans[instance.group].foreign_adapters
        own = tuple(c for c in instance.models if not c.get("parent") or c["id"] in foreign)
        if not instance.adapters.loaded:
            return own
        return _with_adapters(own, self.inventory.of(instance.id), instance.adapters)

    def _cards_of_external(self, backend: ExternalBackend) -> Cards:
        """What it says it serves; where its adapters are ours to manage, as for our own workers."""
        if backend.agent is None:
            return backend.spec.models
        own = tuple(c for c in backend.spec.models if not c.get("parent"))
        return _with_adapters(own, self.inventory.of(backend.id), backend.adapters)


def _with_adapters(own: Cards, registry: Registry, held: HeldAdapters) -> Cards:
    if not own:
        return ()
    base, loaded = own[0]["id"], held.loaded
    return (*own, *(_held(registry, base, loaded, held.withheld)))


def _held(registry: Registry, base: str, loaded: Mapping[str, str], withheld: set[str]) -> list[dict[str, Any]]:
    return [
        card(adapter, base, loaded[name])
        for name, adapter in registry.adapters.items()
        if name in loaded and name not in withheld
    ]
