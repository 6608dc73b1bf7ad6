"""`POST /v1/cluster/apply`: changed settings on a running cluster.

What is not named stays as it is. All of it is checked before anything changes. Then the new settings are written
down, what holds at once holds, the balancer is replaced and the workers are restarted one at a time, if the changes
concern them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field, StrictBool

from cluster.adapters.intake import Intake
from cluster.adapters.inventory import Inventory
from cluster.api import authority
from cluster.api.handlers import Balancers, ClusterCommands
from cluster.api.schemas import Body
from cluster.balancers.config import balancer_config
from cluster.deployment import plan
from cluster.deployment.plan import Plan
from cluster.deployment.revisions import Revisions, SettingsInForce
from cluster.deployment.setting_changes import Change, changes, merge, refusal
from cluster.errors import Refused
from cluster.events import Emit
from cluster.fleet.fleet import Fleet
from cluster.fleet.states import WorkerState
from config.disk import locations
from config.errors import UsageError
from config.identity.principal import Principal
from config.paths import StateDir
from config.settings import Effect, Settings

#: `Supervisor.command` for what answers with JSON.
Run = Callable[[Callable[[], dict[str, Any]]], Awaitable[dict[str, Any]]]


class Apply(Body):
    """``settings`` by name, as in a file; ``defaults`` names those that are to be as if nobody had given them;
    ``previous``: back to what the last apply replaced. ``spare``: None leaves it to the settings."""

    settings: dict[str, Any] = Field(default_factory=dict)
    defaults: list[str] = Field(default_factory=list)
    previous: StrictBool = False
    dry_run: StrictBool = False
    spare: StrictBool | None = None


class Applier:
    """``run`` does a change in the task that owns the state and stores it; see `Supervisor.command`."""

    def __init__(
        self, fleet: Fleet, revisions: Revisions, in_force: SettingsInForce, commands: ClusterCommands,
        balancers: Balancers, inventory: Inventory, intake: Intake, state: StateDir, emit: Emit, run: Run,
    ) -> None:
        self._fleet, self._revisions, self._in_force, self._commands = fleet, revisions, in_force, commands
        self._balancers, self._inventory, self._intake = balancers, inventory, intake
        self._state, self._emit, self._run = state, emit, run

    async def apply(self, body: Apply, who: Principal = authority.UNNAMED) -> dict[str, Any]:
        """What is changed, and how. Raises Refused."""
        old, given = self._revisions.latest, self._given(body)
        running = self._running((*given, *body.defaults))
        try:
            new = merge(old.settings, given, body.defaults)
        except UsageError as error:
            raise Refused(400, str(error)) from None
        found = changes(old.settings, new, running)
        authority.check_settings(who, [change.setting for change in found])
        refused = refusal(found)
        if refused is None and found:
            checked = await self._check(old, new, any(c.setting == "instances" for c in found))
        elif refused is not None and not body.dry_run:
            raise Refused(409, refused, next(c.setting for c in found if c.effect is Effect.NEVER))
        answer: dict[str, Any] = {
            "changes": [change.shown() for change in found], "refused": refused, "dry_run": body.dry_run,
            "spare": None, "restarting": [],
        }  # fmt: skip
        if body.dry_run or not found:
            return answer

        def commit() -> dict[str, Any]:
            if self._revisions.latest is not old or self._running(running) != running:
                raise Refused(409, "the cluster was changed meanwhile; nothing was applied: look again and repeat it")
            return answer | self._commit(checked, found, body.spare)

        answer = await self._run(commit)
        # Some of the engine's flags are the balancer's as well.
        config = balancer_config(checked, self._state)
        if config != balancer_config(old, self._state) or any(c.effect is Effect.BALANCER for c in found):
            self._balancers.request_replacement(balancer_config(self._revisions.latest, self._state))
        return answer

    def _given(self, body: Apply) -> Mapping[str, Any]:
        if not body.previous:
            if not body.settings and not body.defaults:
                raise Refused(400, "no settings are given", "settings")
            for name, value in body.settings.items():
                if path := locations.relative(name, value):
                    why = f"{name}: {path!r} is no absolute path, and the cluster is in another folder"
                    raise Refused(400, why, name)
            return body.settings
        if body.settings or body.defaults:
            raise Refused(400, '"previous" goes without "settings" and "defaults"', "previous")
        if not self._revisions.before:
            raise Refused(409, "nothing was applied before: there is nothing to go back to", "previous")
        return self._revisions.before

    def _running(self, names: Mapping[str, Any] | tuple[str, ...]) -> dict[str, Any]:
        """What of ``names`` is changed at run time, and is now."""
        now = {"instances": self._fleet.intent.group().count, "strategy": self._fleet.intent.strategy}
        return {name: value for name, value in now.items() if name in names}

    async def _check(self, old: Plan, new: Settings, scaled: bool) -> Plan:
        """The plan for ``new``; ``scaled``: it asks for another number of workers. Raises Refused with the reason
        where it would not work."""
        try:
            checked = await asyncio.to_thread(plan.make, new, old.placement.machine)
        except UsageError as error:
            raise Refused(400 if error.exit_code == 2 else 409, f"{error}; nothing was changed") from None
        now = self._fleet.intent.group(checked.group).count
        count = new.instances if scaled else now
        most = new.max_instances or max(checked.placement.capacity, now)
        if count and not checked.least <= count <= most:
            raise Refused(409, f"{count} instances are outside {checked.least}..{most}; nothing was changed")
        if checked.placement.ranks != old.placement.ranks:
            raise Refused(409, "how many GPUs a worker spans is not changed on a running cluster", "engine_args")
        lost = [name for name in old.spec.served_names if name not in checked.spec.served_names]
        if lost:
            raise Refused(409, f"clients know the model as {', '.join(lost)}: their requests would fail", "engine_args")
        if checked.spec != old.spec:
            await self._check_adapters(old, checked)
        # Core lists stay those that the running workers were given theirs from.
        return replace(checked, placement=replace(
            checked.placement, planned=old.placement.planned, spares=old.placement.spares,
        ))  # fmt: skip

    async def _check_adapters(self, old: Plan, new: Plan) -> None:
        """Raises Refused where workers by ``new`` could not hold what those by ``old`` can. What cannot be seen
        beforehand, the first of them finds out: see `cluster.fleet.rolling`."""
        registry, intake = self._inventory.registry, self._intake
        misfits = await intake.misfits(registry.adapters.values(), new)
        before = await intake.misfits([registry.adapters[name] for name in misfits], old)
        misfits = {name: why for name, why in misfits.items() if name not in before}
        if misfits:
            first, why = next(iter(misfits.items()))
            others = f", and neither could they hold {', '.join(list(misfits)[1:])}" if len(misfits) > 1 else ""
            raise Refused(
                409, f"with these settings workers could not hold adapter {first} ({why}){others}; nothing was "
                "changed: `clusterctl lora unload` takes an adapter off", "engine_args",
            )  # fmt: skip

    def _commit(self, checked: Plan, found: list[Change], spare_wanted: bool | None) -> dict[str, Any]:
        self._commands.check_not_ending()
        intent, settings, there = self._fleet.intent, checked.settings, self._there(checked)
        effects = {change.effect for change in found}
        before = {change.setting: change.old for change in found}
        self._in_force.use([checked], workers=Effect.WORKERS in effects, before=before)
        if "strategy" in before:
            intent.strategy = settings.strategy
        if "drain_timeout" in before:
            self._balancers.drain_within(settings.drain_timeout)
        if "instances" in before:
            intent.scale(settings.instances, checked.group)
        what = ", ".join(change.setting for change in found)
        names = [change.setting for change in found]
        self._emit("cluster", f"settings applied: {what}", kind="apply", data={"settings": names})
        if Effect.WORKERS not in effects:
            return {}
        spare = self._commands.spare_for(checked, spare_wanted)
        restarting = [name for name in intent.group(checked.group).lasting if name not in there]
        intent.restart_rolling(spare if restarting else None, there, checked.group)
        if restarting:
            self._commands.emit_rolling(spare)
        return {"spare": spare if restarting else None, "restarting": restarting}

    def _there(self, new: Plan) -> list[str]:
        """Who runs with what ``new`` asks for already: where settings are taken back, those that never got them. Not
        those whose restart somebody asked for, nor one that has failed."""
        found = []
        for instance in self._fleet.instances.values():
            want = self._fleet.intent.desired.wanted.get(instance.id)
            if want is None or instance.state is WorkerState.FAILED:
                continue
            if not want.rolling and instance.generation < want.generation:
                continue
            try:
                same = self._revisions.of(instance.group, instance.settings).spec == new.spec
            except UsageError:
                same = False
            if same:
                found.append(instance.id)
        return found
