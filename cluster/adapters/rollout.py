"""Changes of adapters: on all ready workers or on none, and a new version worker by worker. The registry is written
when all of them have it: whoever kills us before leaves the old state, and the workers are brought back to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.adapters import status as adapter_states
from cluster.adapters.agent import Totals
from cluster.adapters.effect import Effects
from cluster.adapters.intake import Intake
from cluster.adapters.registry import Adapter, Registry, Version
from cluster.adapters.status import Held
from cluster.adapters.validation import engine_side
from cluster.adapters.validation import files as adapter_files
from cluster.adapters.validation.files import AdapterFacts, AdapterRejected
from cluster.errors import Refused
from cluster.fleet.instance import Instance
from cluster.fleet.states import WorkerState
from cluster.monitoring.external import ExternalBackend
from config.settings import NAME
from worker.probe import ProbeFailed

if TYPE_CHECKING:
    from cluster.supervisor.loop import Supervisor


@dataclass(slots=True)
class _Trial:
    """A change under way: on the workers in ``on`` the name stands for ``version`` already."""

    version: Version
    on: set[str] = field(default_factory=set)


#: What holds adapters for us.
Holder = Instance | ExternalBackend


class Rollouts:
    """``registry`` is what holds; `wanted` what follows for one worker."""

    def __init__(self, supervisor: Supervisor, store: Path, wall: Callable[[], float]) -> None:
        self._supervisor, self._wall = supervisor, wall
        self.intake = Intake(store, wall)
        self.effects = Effects(self._may_do_nothing, supervisor.events.emit)
        self.registry = Registry()
        self.used: dict[str, float] = {}
        self.rollbacks = 0
        self.past = Totals()
        self._trials: dict[str, _Trial] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def wanted(self, instance: str) -> dict[str, str]:
        """Name and path of what ``instance`` should hold now."""
        wanted = self.registry.resident(self.used, self._supervisor.plan.adapter_cap)
        for name, trial in self._trials.items():
            if instance in trial.on:
                wanted[name] = trial.version.path
        return wanted

    def totals(self) -> dict[str, float]:
        """For `/metrics`: what was done to workers since the supervisor started, those that are gone included."""
        totals = self.past
        for instance in self._supervisor.fleet.instances.values():
            if instance.agent is not None:
                totals += instance.agent.totals()
        return {
            "adapters": len(self.registry.adapters), "rollbacks": self.rollbacks, "loads": totals.loads,
            "load_failures": totals.failures, "drift_repairs": totals.drift_repairs,
            "load_seconds": round(totals.load_seconds, 3),
        }  # fmt: skip

    def states(self) -> dict[str, dict[str, Any]]:
        """For `/metrics`: see `cluster.adapters.status.states`."""
        workers = [
            Held(self.wanted(holder.id), holder.agent.loaded, holder.agent.refused, holder.withheld)
            for holder in self._ready() if holder.agent is not None
        ]  # fmt: skip
        return adapter_states.states(self.registry, self.used, workers)

    def version_at(self, name: str, path: str | None) -> int | None:
        """Which version lies at ``path``: the active one, if it does; two may have the same content."""
        adapter = self.registry.get(name)
        if adapter is None:
            return None
        versions = sorted(adapter.versions, key=lambda v: v.number != adapter.active)
        return next((v.number for v in versions if v.path == path), None)

    def want(self, name: str) -> None:
        """Somebody asks for an adapter that no worker holds."""
        if name in self.registry.adapters:
            self.used[name] = self._wall()
            self._supervisor.adapters_changed()

    # the changes

    async def load(
        self, name: str, path: str, replace_it: bool, description: str | None, allow_no_effect: bool = False
    ) -> tuple[int, dict[str, Any]]:
        """Status and answer of `POST /v1/load_lora_adapter`. Raises Refused."""
        self._check_name(name)
        if not engine_side.serves_lora(self._supervisor.plan.spec):
            raise Refused(409, "the workers run with --no-enable-lora: they take no adapters")
        if not self._supervisor.plan.dynamic_loading:
            raise Refused(409, "enable_dynamic_loading is false in the adapters' file: nothing is loaded at run time")
        async with self._lock(name):
            facts = await self._inspect(Path(path), allow_no_effect or self._supervisor.plan.settings.allow_no_effect)
            old = self.registry.get(name)
            if old is not None and old.current.hash == facts.content_hash:
                await self._on_command(old, description, allow_no_effect)
                return 200, {**self._answer(name), "unchecked": self._unchecked(old, facts)}
            if old is not None and not replace_it:
                raise Refused(
                    409, f"adapter {name!r} is loaded with other content; \"load_inplace\": true makes this its next "
                    "version", "load_inplace",
                )  # fmt: skip
            version = await self._take_in(name, path, facts, allow_no_effect)
            adapter = old or Adapter(name, 0, ())
            adapter = replace(adapter, description=adapter.description if description is None else description)
            await self._roll(adapter.with_version(version, self._supervisor.plan.settings.keep_versions))
            ready = bool(self._ready())
            return (200 if ready else 202), {**self._answer(name), "unchecked": self._unchecked(adapter, facts)}

    def _unchecked(self, adapter: Adapter, facts: AdapterFacts) -> list[str]:
        return [*facts.unchecked, *self.effects.unchecked(self._known(adapter.name).current.path)]

    async def _on_command(self, adapter: Adapter, description: str | None, allow_no_effect: bool) -> None:
        """The content is known already; a lazy adapter is loaded now, and another description is taken."""
        new = replace(adapter, description=adapter.description if description is None else description)
        if allow_no_effect:
            new = new.allowing_no_effect()
        if new != adapter:
            await self._supervisor.keep_adapters([new], [])
        self.used[adapter.name] = self._wall()
        await asyncio.gather(*(self._quietly(i, adapter.name) for i in self._ready()))
        self._supervisor.adapters_changed()

    async def rollback(self, name: str, number: int | None) -> dict[str, Any]:
        """Makes an earlier version the active one. Raises Refused."""
        async with self._lock(name):
            adapter = self._known(name)
            number = adapter.previous() if number is None else number
            if number is None:
                raise Refused(409, f"adapter {name!r} has no version before {adapter.active}")
            if number not in {v.number for v in adapter.versions}:
                kept = ", ".join(str(v.number) for v in adapter.versions)
                raise Refused(404, f"adapter {name!r} has no version {number}; kept: {kept}", "version")
            if number != adapter.active:
                await self._roll(replace(adapter, active=number))
                self.rollbacks += 1
            return self._answer(name)

    def sweep(self) -> None:
        """Removes content that no version needs. Blocks; only while no worker can still read it."""
        self.intake.sweep(self.registry.hashes())

    async def unload(self, name: str) -> dict[str, Any]:
        """Off every worker. Raises Refused (404) for an unknown name."""
        async with self._lock(name):
            self._known(name)
            await self._supervisor.keep_adapters([], [name])
            self.used.pop(name, None)
            await asyncio.gather(*(self._quietly(i, name) for i in self._ready()))
            self._supervisor.events.emit(
                "adapters", f"{name} unloaded", kind="adapter.unloaded", data={"adapter": name}
            )
            return {"lora_name": name, "state": "unloaded"}

    async def take_in_given(self, given: dict[str, Path], lazy: frozenset[str], words: dict[str, str]) -> None:
        """Adapters named at the start: one transaction. Those in ``lazy`` are loaded on their first use only;
        ``words`` are descriptions. Raises AdapterRejected for the first that is none."""
        changed, plan = [], self._supervisor.plan
        allow = plan.settings.allow_no_effect
        for name, path in given.items():
            facts = await self.intake.inspect(path, plan, allow)
            old = self.registry.get(name) or Adapter(name, 0, ())
            auto = name not in lazy
            old = replace(old, auto_load=auto, pinned=auto, description=words.get(name, old.description))
            if old.active and old.current.hash == facts.content_hash:
                changed.append(old)
            else:
                version = await self.intake.version(path, facts, old, allow)
                changed.append(old.with_version(version, plan.settings.keep_versions))
        if changed:
            await self._supervisor.keep_adapters(changed, [])

    # how

    async def _roll(self, adapter: Adapter) -> None:
        """Puts the active version of ``adapter`` on every ready worker, then into the registry; a name that is
        there already worker by worker, so that the others serve it meanwhile. Raises Refused after all of them have
        gone back."""
        name, new = adapter.name, self.registry.get(adapter.name) is None
        trial = self._trials[name] = _Trial(adapter.current)
        try:
            while todo := [i for i in self._ready() if i.id not in trial.on]:
                batch = todo if new else todo[:1]
                trial.on |= {i.id for i in batch}
                words = await asyncio.gather(*(self._put(i, name) for i in batch))
                refused = [(i, w) for i, w in zip(batch, words, strict=True) if w is not None]
                if refused:
                    who, why = refused[0]
                    if why == self.effects.without(adapter.current.path):
                        told = f"adapter {name!r} has no effect: {why}; {adapter_files.ALLOW_IT}"
                        raise Refused(400, told, "lora_path")
                    raise Refused(502, f"{who.id} refused adapter {name!r}: {why}")
            await self._supervisor.keep_adapters([adapter], [])
        except BaseException:
            touched = [i for i in self._ready() if i.id in trial.on]
            del self._trials[name]
            await asyncio.shield(self._back(touched, name, at_once=new))
            raise
        del self._trials[name]
        self.used[name] = self._wall()  # just changed: not the next to make room
        self._supervisor.adapters_changed()
        self._supervisor.events.emit(
            "adapters", f"{name} version {adapter.active} on every ready worker", kind="adapter.loaded",
            data={"adapter": name, "version": adapter.active},
        )

    async def _back(self, touched: list[Holder], name: str, at_once: bool) -> None:
        """To what the registry says; an older version one by one, so that the others serve it meanwhile."""
        if at_once:
            await asyncio.gather(*(self._quietly(i, name) for i in touched))
        else:
            for holder in touched:
                await self._quietly(holder, name)

    async def _put(self, instance: Holder, name: str) -> str | None:
        """None if it is there now, or if the worker is gone: its next start brings what the registry says."""
        agent, incarnation = instance.agent, instance.incarnation
        if agent is None:
            return None
        try:
            return await agent.apply(name)
        except ProbeFailed as error:
            gone = instance.incarnation != incarnation or instance.state is not WorkerState.READY
            if gone or not await self._survives(instance, incarnation):
                return None
            return str(error)

    async def _survives(self, instance: Holder, incarnation: int) -> bool:
        """A worker that does not answer may be dead without our knowing yet: give its end a moment to be seen."""
        for _ in range(50):
            if instance.incarnation != incarnation or instance.state is not WorkerState.READY:
                return False
            await asyncio.sleep(0.02)
        return True

    async def _quietly(self, instance: Holder, name: str) -> None:
        """Back to what the registry says; what fails now is drift, and repaired as such."""
        if instance.agent is not None:
            try:
                await instance.agent.apply(name)
            except ProbeFailed:
                instance.agent.dirty.set()

    def _ready(self) -> list[Holder]:
        holders: list[Holder] = [*self._supervisor.fleet.instances.values(), *self._supervisor.external]
        return [h for h in holders if h.state is WorkerState.READY and h.agent is not None]

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _known(self, name: str) -> Adapter:
        adapter = self.registry.get(name)
        if adapter is None:
            raise Refused(404, f"no adapter {name!r}", "lora_name")
        return adapter

    def _check_name(self, name: str) -> None:
        if not NAME.fullmatch(name):
            raise Refused(400, f"{name[:200]!r} is no adapter name: [A-Za-z0-9._-], 1 to 128 characters", "lora_name")
        if name in self._supervisor.plan.spec.served_names:
            raise Refused(409, f"{name!r} is the name of the model itself", "lora_name")

    async def _inspect(self, path: Path, allow_no_effect: bool) -> AdapterFacts:
        try:
            return await self.intake.inspect(path, self._supervisor.plan, allow_no_effect)
        except AdapterRejected as error:
            raise Refused(error.status, str(error), "lora_path") from None

    async def _take_in(self, name: str, path: str, facts: AdapterFacts, allow_no_effect: bool) -> Version:
        try:
            return await self.intake.version(Path(path), facts, self.registry.get(name), allow_no_effect)
        except AdapterRejected as error:
            raise Refused(error.status, str(error), "lora_path") from None
        except OSError as error:
            raise Refused(507, f"the adapter cannot be stored: {error.strerror or error}") from None

    def _may_do_nothing(self, path: str) -> bool:
        """Whether somebody said so of the content in ``path``, or of all."""
        versions = (v for a in self.registry.adapters.values() for v in a.versions if v.path == path)
        trials = (trial.version for trial in self._trials.values() if trial.version.path == path)
        return self._supervisor.plan.settings.allow_no_effect or any(v.allow_no_effect for v in (*versions, *trials))

    # what it looks like

    def _answer(self, name: str) -> dict[str, Any]:
        adapter = self._known(name)
        instances = {i: s["state"] for i, s in self.instances(adapter).items()}
        state = _overall(set(instances.values()))
        return {"lora_name": name, "version": adapter.active, "state": state, "instances": instances}

    def instances(self, adapter: Adapter) -> dict[str, dict[str, Any]]:
        """State, version and reason by ready worker."""
        return {i.id: self._on(i, adapter) for i in self._ready()}

    def _on(self, instance: Holder, adapter: Adapter) -> dict[str, Any]:
        agent = instance.agent
        assert agent is not None
        path, refusal = agent.loaded.get(adapter.name), agent.refused.get(adapter.name)
        if path is not None:
            state = "loading" if adapter.name in instance.withheld else "loaded"
        elif refusal is not None:
            state = "refused"
        else:
            state = "loading" if adapter.name in self.wanted(instance.id) else "lazy"
        version = self.version_at(adapter.name, path)
        return {"state": state, "version": version, "reason": refusal.reason if refusal else ""}

    def describe(self, adapter: Adapter, versions: bool = False) -> dict[str, Any]:
        """One entry of `GET /v1/lora_adapters`."""
        current, instances = adapter.current, self.instances(adapter)
        states = {i["state"] for i in instances.values()}
        shown: dict[str, Any] = {
            "lora_name": adapter.name, "version": adapter.active,
            "state": "rolling" if adapter.name in self._trials else _overall(states),
            "description": adapter.description, "rank": current.rank, "size": current.size,
            "base_model": current.base_model, "auto_load": adapter.auto_load, "instances": instances,
        }  # fmt: skip
        if versions:
            shown["versions"] = [
                {"version": v.number, "hash": v.hash, "rank": v.rank, "target_modules": list(v.target_modules),
                 "base_model": v.base_model, "source": v.source, "size": v.size, "created": v.created,
                 "active": v.number == adapter.active}
                for v in adapter.versions
            ]  # fmt: skip
        return shown

    def find(self, name: str) -> dict[str, Any]:
        return self.describe(self._known(name), versions=True)


def _overall(states: set[str]) -> str:
    if not states:
        return "registered"
    return next((s for s in ("refused", "loading", "lazy") if s in states), "loaded")
