"""Changes of adapters: on all ready workers or on none, and a new version worker by worker. The registry is written
when all of them have it: whoever kills us before leaves the old state, and the workers are brought back to it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.adapters.agent import AdapterAgent, Agents, Holder
from cluster.adapters.effect import Effects
from cluster.adapters.intake import Intake
from cluster.adapters.inventory import Inventory, Trial
from cluster.adapters.registry import Adapter, Version
from cluster.adapters.report import AdapterReport
from cluster.deployment.plan import Plan
from cluster.deployment.revisions import Revisions
from cluster.errors import Refused
from cluster.events import Emit
from cluster.fleet.states import WorkerState
from config.model_names import NAME
from worker.adapters import files as adapter_files
from worker.adapters.files import AdapterFacts, AdapterRejected
from worker.probe import ProbeFailed


class Rollouts:
    """``inventory`` is what holds, ``agents`` bring it to the workers. One method more than a class should have: each
    change that can be asked for is one, and each begins as the others do."""

    def __init__(
        self, inventory: Inventory, agents: Agents, intake: Intake, effects: Effects, report: AdapterReport,
        revisions: Revisions, emit: Emit, wall: Callable[[], float],
    ) -> None:
        self._inventory, self._agents, self._intake, self._effects = inventory, agents, intake, effects
        self._report, self._revisions, self._emit, self._wall = report, revisions, emit, wall
        self._locks: dict[str, asyncio.Lock] = {}

    def want(self, name: str) -> None:
        """Somebody asks for an adapter that no worker holds."""
        if name in self._inventory.everything.adapters:
            self._inventory.used[name] = self._wall()
            self._agents.look_again()

    # the changes

    async def load(
        self, name: str, path: str, replace_it: bool, description: str | None, allow_no_effect: bool = False,
        model: str | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Status and answer of `POST /v1/load_lora_adapter`. ``model``: to which it belongs, by one of its names; None:
        the only one, or that which it belongs to already. Raises Refused."""
        self._check_name(name)
        plan = self._of_model(name, model)
        if plan.no_lora:
            raise Refused(409, plan.no_lora)
        if not plan.dynamic_loading:
            raise Refused(409, "enable_dynamic_loading is false in the adapters' file: nothing is loaded at run time")
        self._before(name, plan)
        folder = await self._located(path)  # without the lock: that may take an hour
        async with self._lock(name):
            self._check_name(name)
            plan = self._as_it_is_now(plan)
            old = self._before(name, plan)
            facts = await self._inspect(folder, plan, allow_no_effect or plan.settings.allow_no_effect)
            if old is not None and old.current.hash == facts.content_hash:
                await self._on_command(old, description, allow_no_effect)
                return 200, self._answer(old, facts)
            if old is not None and not replace_it:
                raise Refused(
                    409, f"adapter {name!r} is loaded with other content; \"load_inplace\": true makes this its next "
                    "version", "load_inplace",
                )  # fmt: skip
            version = await self._take_in(name, folder, facts, allow_no_effect)
            adapter = old or Adapter(name, 0, (), group=plan.group)
            adapter = replace(adapter, description=adapter.description if description is None else description)
            keep, needed = plan.settings.keep_versions, self._inventory.needed(name)
            self._as_it_is_now(plan)
            await self._roll(adapter.with_version(version, keep, needed))
            ready = bool(self._agents.ready(plan.group))
            return (200 if ready else 202), self._answer(adapter, facts)

    def _before(self, name: str, plan: Plan) -> Adapter | None:
        """What has that name already. Raises Refused where it is of another model."""
        old = self._inventory.registry.adapters.get(name)
        if old is not None and old.group != plan.group:
            raise Refused(409, f"adapter {name!r} is of model {old.group!r}: unload it there first", "lora_name")
        return old

    def _answer(self, adapter: Adapter, facts: AdapterFacts) -> dict[str, Any]:
        unchecked = [*facts.unchecked, *self._effects.unchecked(self._inventory.known(adapter.name).current.path)]
        converted = {"converted": list(facts.converted)} if facts.converted else {}
        return {**self._report.answer(adapter.name), "unchecked": unchecked, **converted}

    async def _on_command(self, adapter: Adapter, description: str | None, allow_no_effect: bool) -> None:
        """The content is known already; a lazy adapter is loaded now, and another description is taken."""
        new = replace(adapter, description=adapter.description if description is None else description)
        if allow_no_effect:
            new = new.allowing_no_effect()
        if new != adapter:
            await self._keep([new], [])
        self._inventory.used[adapter.name] = self._wall()
        await asyncio.gather(*(self._quietly(agent, adapter.name) for _, agent in self._agents.ready(adapter.group)))
        self._agents.look_again()

    async def rollback(self, name: str, number: int | None) -> dict[str, Any]:
        """Makes an earlier version the active one. Raises Refused."""
        async with self._lock(name):
            adapter = self._inventory.known(name)
            number = adapter.previous() if number is None else number
            if number is None:
                raise Refused(409, f"adapter {name!r} has no version before {adapter.active}")
            if number not in {v.number for v in adapter.versions}:
                kept = ", ".join(str(v.number) for v in adapter.versions)
                raise Refused(404, f"adapter {name!r} has no version {number}; kept: {kept}", "version")
            if number != adapter.active:
                await self._roll(replace(adapter, active=number))
                self._inventory.rollbacks += 1
            return self._report.answer(name)

    def sweep(self) -> None:
        """Removes content that no version needs. Blocks; only while no worker can still read it."""
        self._intake.sweep(self._inventory.registry.hashes())

    async def unload(self, name: str) -> dict[str, Any]:
        """Off every worker. Raises Refused: 404 for an unknown name, 409 for one that an alias needs."""
        async with self._lock(name):
            group = self._inventory.known(name).group
            self._inventory.check_unneeded(name)
            await self._keep([], [name])
            self._inventory.used.pop(name, None)
            await asyncio.gather(*(self._quietly(agent, name) for _, agent in self._agents.ready(group)))
            self._emit(
                "adapters", f"{name} unloaded", kind="adapter.unloaded", data={"adapter": name}
            )
            return {"lora_name": name, "state": "unloaded"}

    async def check_given(self, plan: Plan) -> None:
        """Raises AdapterRejected for the first of the adapters named with a model that is none."""
        for path in plan.spec.adapters.values():
            await self._intake.inspect(Path(path), plan, plan.settings.allow_no_effect)

    async def take_in_given(self, plan: Plan) -> None:
        """Adapters named with a model: one transaction. Those that are lazy are loaded on their first use only. Raises
        AdapterRejected for the first that is none."""
        changed, spec, allow = [], plan.spec, plan.settings.allow_no_effect
        for name, path in ((name, Path(path)) for name, path in spec.adapters.items()):
            facts = await self._intake.inspect(path, plan, allow)
            old = self._inventory.registry.adapters.get(name)
            if old is None or old.group != plan.group:
                old = Adapter(name, 0, (), group=plan.group)
            auto, words = name not in spec.lazy, spec.descriptions
            old = replace(old, auto_load=auto, pinned=auto, description=words.get(name, old.description))
            if old.active and old.current.hash == facts.content_hash:
                changed.append(old)
            else:
                version = await self._intake.version(path, facts, old, allow)
                needed = self._inventory.needed(name)
                changed.append(old.with_version(version, plan.settings.keep_versions, needed))
        if changed:
            await self._keep(changed, [])

    # how

    async def _roll(self, adapter: Adapter) -> None:
        """Puts the active version of ``adapter`` on every ready worker, then into the registry; a name that is
        there already worker by worker, so that the others serve it meanwhile. Raises Refused after all of them have
        gone back."""
        name, group = adapter.name, adapter.group
        new = self._inventory.registry.adapters.get(name) is None
        trial = self._inventory.trials[name] = Trial(adapter.current)
        try:
            while todo := [one for one in self._agents.ready(group) if one[0].id not in trial.on]:
                batch = todo if new else todo[:1]
                trial.on |= {holder.id for holder, _ in batch}
                words = await asyncio.gather(*(self._put(holder, agent, name) for holder, agent in batch))
                refused = [(holder, w) for (holder, _), w in zip(batch, words, strict=True) if w is not None]
                if refused:
                    who, why = refused[0]
                    if why == self._effects.without(adapter.current.path):
                        told = f"adapter {name!r} has no effect: {why}; {adapter_files.ALLOW_IT}"
                        raise Refused(400, told, "lora_path")
                    raise Refused(502, f"{who.id} refused adapter {name!r}: {why}")
            await self._keep([adapter], [])
        except BaseException:
            touched = [agent for holder, agent in self._agents.ready(group) if holder.id in trial.on]
            del self._inventory.trials[name]
            await asyncio.shield(self._back(touched, name, at_once=new))
            raise
        del self._inventory.trials[name]  # before anybody looks again at what workers should hold
        self._inventory.used[name] = self._wall()  # just changed: not the next to make room
        self._emit(
            "adapters", f"{name} version {adapter.active} on every ready worker", kind="adapter.loaded",
            data={"adapter": name, "version": adapter.active},
        )

    async def _back(self, touched: list[AdapterAgent], name: str, at_once: bool) -> None:
        """To what the registry says; an older version one by one, so that the others serve it meanwhile."""
        if at_once:
            await asyncio.gather(*(self._quietly(agent, name) for agent in touched))
        else:
            for agent in touched:
                await self._quietly(agent, name)

    async def _put(self, holder: Holder, agent: AdapterAgent, name: str) -> str | None:
        """None if it is there now, or if the worker is gone: its next start brings what the registry says."""
        incarnation = holder.incarnation
        try:
            return await agent.apply(name)
        except ProbeFailed as error:
            gone = holder.incarnation != incarnation or holder.state is not WorkerState.READY
            if gone or not await self._survives(holder, incarnation):
                return None
            return str(error)

    async def _survives(self, holder: Holder, incarnation: int) -> bool:
        """A worker that does not answer may be dead without our knowing yet: give its end a moment to be seen."""
        for _ in range(50):
            if holder.incarnation != incarnation or holder.state is not WorkerState.READY:
                return False
            await asyncio.sleep(0.02)
        return True

    async def _quietly(self, agent: AdapterAgent, name: str) -> None:
        """Back to what the registry says; what fails now is drift, and repaired as such."""
        try:
            await agent.apply(name)
        except ProbeFailed:
            agent.dirty.set()

    async def _keep(self, changed: list[Adapter], gone: list[str]) -> None:
        await self._inventory.keep(changed, gone)
        self._agents.look_again()

    def _of_model(self, name: str, model: str | None) -> Plan:
        """The plan of the model that the adapter ``name`` belongs to. Raises Refused."""
        plans, old = self._revisions.plans, self._inventory.registry.adapters.get(name)
        if model is None and old is not None and old.group in plans:
            return plans[old.group]
        return self._revisions.chosen(model)

    def _as_it_is_now(self, plan: Plan) -> Plan:
        """What that model runs by once something was waited for. Raises Refused where it has been unloaded."""
        for held in self._revisions.served:
            if held.group == plan.group:
                return held
        raise Refused(409, f"model {plan.spec.served_names[0]!r} has been unloaded meanwhile", "model")

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _check_name(self, name: str) -> None:
        if not NAME.fullmatch(name):
            raise Refused(400, f"{name[:200]!r} is no adapter name: [A-Za-z0-9._-], 1 to 128 characters", "lora_name")
        if any(name in plan.spec.served_names for plan in self._revisions.served):
            which = "a model" if self._revisions.definitions else "the model itself"
            raise Refused(409, f"{name!r} is the name of {which}", "lora_name")

    async def _inspect(self, path: Path, plan: Plan, allow_no_effect: bool) -> AdapterFacts:
        try:
            facts = await self._intake.inspect(path, plan, allow_no_effect)
        except AdapterRejected as error:
            raise Refused(error.status, str(error), "lora_path") from None
        if facts.converted:
            self._emit(
                "adapters", f"the adapter in {path} was converted: {'; '.join(facts.converted)}",
                kind="adapter.converted", data={"path": str(path), "done": list(facts.converted)},
            )
        return facts

    async def _located(self, text: str) -> Path:
        try:
            return await self._intake.located(text)
        except OSError as error:
            raise Refused(507, f"it cannot be fetched: {error.strerror or error}") from None

    async def _take_in(self, name: str, path: Path, facts: AdapterFacts, allow_no_effect: bool) -> Version:
        old = self._inventory.registry.adapters.get(name)
        try:
            return await self._intake.version(path, facts, old, allow_no_effect)
        except AdapterRejected as error:
            raise Refused(error.status, str(error), "lora_path") from None
        except OSError as error:
            raise Refused(507, f"the adapter cannot be stored: {error.strerror or error}") from None
