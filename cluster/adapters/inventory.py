"""Which adapters there are, and which of them a worker should hold now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field

from cluster.adapters.registry import Adapter, Registry, Version
from cluster.deployment.plan import Plan
from cluster.deployment.revisions import Revisions
from cluster.errors import Refused
from cluster.fleet.groups import group_of
from cluster.fleet.instance import HeldAdapters
from cluster.fleet.model_names import ModelNames
from config.errors import nearest


@dataclass(slots=True)
class Trial:
    """A change under way: on the workers in ``on`` the name stands for ``version`` already."""

    version: Version
    on: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Assigned:
    """Of one worker, while not all hold the same: the adapters it is a ``home`` of, those that are ``leaving`` and stay
    until they are elsewhere, and what it holds."""

    home: frozenset[str] = frozenset()
    leaving: frozenset[str] = frozenset()
    held: HeldAdapters = field(default_factory=HeldAdapters)


class Inventory:
    """``registry`` is what holds; it is replaced as a whole, by `keep`. ``used``: when each adapter was last asked for
    (s since the epoch); ``save`` makes a change of the registry durable, and raises NotSaved. ``names()``: routes and
    aliases; the versions that they lead to are there as well, see `Registry.with_versions`. ``homes``: by adapter, the
    workers where it belongs, and ``assigned`` what follows for each; none while all hold the same
    (`cluster.adapters.residency`)."""

    def __init__(
        self, revisions: Revisions, save: Callable[[list[Adapter], list[str]], Awaitable[None]],
        names: Callable[[], ModelNames] = ModelNames,
    ) -> None:
        self._revisions, self._save, self._names = revisions, save, names
        self.registry = Registry()
        self.used: dict[str, float] = {}
        self.trials: dict[str, Trial] = {}
        self.homes: Mapping[str, tuple[str, ...]] = {}
        self.assigned: Mapping[str, Assigned] | None = None
        self.rollbacks = 0

    @property
    def everything(self) -> Registry:
        """With the versions that are to be there beside the active ones."""
        beside = self._names().versions()
        return self.registry.with_versions(beside) if beside else self.registry

    def of(self, holder: str) -> Registry:
        """What of `everything` belongs to the model of the worker ``holder``."""
        every = self.everything
        return every if len(self._revisions.plans) == 1 else every.of(group_of(holder))

    def names_of(self, group: str) -> list[str]:
        """Of the adapters of one model, by the group of its workers."""
        return list(self.registry.of(group).adapters)

    def needed(self, name: str) -> frozenset[int]:
        """The versions of it that aliases lead to, or led to before they were changed."""
        return frozenset(number for adapter, number in self._names().versions() if adapter == name)

    def wanted(self, holder: str) -> dict[str, str]:
        """Name and path of what the worker ``holder`` should hold now."""
        every, cap = self.of(holder), self._plan(holder).adapter_cap
        if self.assigned is None:
            wanted = every.resident(self.used, cap)
        else:
            own = self.assigned.get(holder, Assigned())
            wanted = every.resident(self.used, cap, own.home, own.held.loaded)
            staying = (every.adapters.get(name) for name in own.leaving)
            wanted |= {adapter.name: adapter.current.path for adapter in staying if adapter is not None}
        for name, trial in self.trials.items():
            if holder in trial.on:
                wanted[name] = trial.version.path
        return wanted

    def wanted_by_all(self, holders: Iterable[str]) -> dict[str, Mapping[str, str]]:
        """`wanted` of each of them: what a whole group should hold is found once, as it may be of a thousand."""
        on_trial = {holder for trial in self.trials.values() for holder in trial.on}
        by_group: dict[str, Mapping[str, str]] = {}
        found: dict[str, Mapping[str, str]] = {}
        for holder in holders:
            if self.assigned is not None or holder in on_trial:
                found[holder] = self.wanted(holder)
            elif (group := group_of(holder)) in by_group:
                found[holder] = by_group[group]
            else:
                found[holder] = by_group[group] = self.wanted(holder)
        return found

    def places(self) -> int:
        """Adapters that a worker holds at a time."""
        return self._revisions.latest.adapter_cap

    def slots(self) -> int:
        """Adapters that a worker computes at a time."""
        return self._revisions.latest.spec.max_loras

    def foreign(self, holder: str) -> frozenset[str]:
        """Adapters there that came with the engine's own flags, and are left alone."""
        return self._plan(holder).foreign_adapters

    def _plan(self, holder: str) -> Plan:
        """Of the group of a worker; servers that are not ours go by the default one."""
        return self._revisions.plans.get(group_of(holder)) or self._revisions.latest

    async def keep(self, changed: list[Adapter], gone: list[str]) -> None:
        """Makes a change durable, then true. Raises NotSaved."""
        await self._save(changed, gone)
        registry = self.registry
        for adapter in changed:
            registry = registry.with_adapter(adapter)
        for name in gone:
            registry = registry.without(name)
        self.registry = registry

    def known(self, name: str) -> Adapter:
        """Raises Refused."""
        adapter = self.registry.adapters.get(name)
        if adapter is None:
            raise Refused(404, f"no adapter {name!r}{nearest(name, self.registry.adapters)}", "lora_name")
        return adapter

    def check_unneeded(self, name: str) -> None:
        """Of an adapter or a model: raises Refused (409) where a route or an alias leads to it."""
        if by := self._names().leading_to(name):
            which = "lora_name" if name in self.registry.adapters else "model_name"
            raise Refused(409, f"{by[0]}: change or delete that first", which)

    def report_used(self, used: Mapping[str, float]) -> None:
        """By several balancers, which need not report in the order of their requests."""
        for name, at in used.items():
            self.used[name] = max(at, self.used.get(name, 0.0))

    def may_do_nothing(self, path: str) -> bool:
        """Whether somebody said so of the content in ``path``, or of all."""
        versions = (v for a in self.registry.adapters.values() for v in a.versions if v.path == path)
        trials = (trial.version for trial in self.trials.values() if trial.version.path == path)
        allowed = self._revisions.settings.allow_no_effect
        return allowed or any(v.allow_no_effect for v in (*versions, *trials))
