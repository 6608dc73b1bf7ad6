"""Which models there are, and what changes that: in the task that owns the state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from cluster.adapters.inventory import Inventory
from cluster.deployment.plan import Plan
from cluster.deployment.revisions import Revisions, SettingsInForce
from cluster.errors import Refused
from cluster.events import Emit
from cluster.fleet.fleet import Fleet
from cluster.models import room
from cluster.models.offers import Offers
from cluster.models.record import ModelRecords
from config.models import MOST_MODELS, ModelDefinition


class Catalogue:
    """``wake()``: looks at once which models should be up."""

    def __init__(
        self, fleet: Fleet, revisions: Revisions, in_force: SettingsInForce, inventory: Inventory,
        records: ModelRecords, offers: Offers, emit: Emit, wake: Callable[[], None],
    ) -> None:
        self._fleet, self._revisions, self._in_force, self._inventory = fleet, revisions, in_force, inventory
        self._records, self._offers, self._emit, self._wake = records, offers, emit, wake

    def find(self, name: str) -> Plan:
        """One of several models, by one of its names. Raises Refused: 404, or 409 for the one that a cluster was
        started with, which is not changed in this way."""
        plan = self._revisions.named(name)
        if plan.definition is None:
            raise Refused(409, f"{name!r} is what the cluster was started with: it stays up", "model_name")
        return plan

    def same(self, name: str, model: ModelDefinition) -> bool:
        """Whether that is there already. Raises Refused (409) where the name is taken by something else."""
        held = self._revisions.plans.get(name)
        if held is not None and held.leaving:
            raise Refused(409, f"model {name!r} is on its way out: again when it is gone", "model_name")
        if held is not None and held.definition is not None:
            if held.definition == model and not held.broken:
                return True
            raise Refused(409, f"model {name!r} is there with other settings: unload it first", "model_name")
        if len(self._revisions.definitions) >= MOST_MODELS:
            raise Refused(409, f"there are {MOST_MODELS} models, the most that a cluster may have")
        return False

    def check_names(self, plan: Plan) -> None:
        """Raises Refused (409) where a name of it, or of an adapter of it, is one of something else."""
        taken = {name: f"model {held.spec.served_names[0]!r}" for held in self._revisions.served
                 for name in held.spec.served_names}  # fmt: skip
        taken |= dict.fromkeys(self._fleet.intent.names.in_force(), "a route or an alias")
        taken |= dict.fromkeys(self._inventory.registry.adapters, "an adapter")
        for name in (*plan.spec.served_names, *plan.spec.adapters):
            if name in taken:
                raise Refused(409, f"{name!r} is the name of {taken[name]} already", "model_name")

    def add(self, plan: Plan) -> None:
        """It can be asked for, and is brought up as soon as there is room."""
        self.check_names(plan)
        self._revisions.set_model(plan)
        self._in_force.hold()
        self._emit(plan.group, f"model is there: {plan.spec.model}, engine {plan.spec.engine}", kind="model.loaded")
        self.want_up(plan)

    def want_up(self, plan: Plan) -> None:
        """Somebody asks for it, as a request would. Raises Refused (409) where it cannot be started."""
        if plan.broken:
            raise Refused(409, plan.broken, "model_name")
        record = self._records.of(plan.group)
        record.wanted, record.retry_at = self._offers.state(plan) != "up", 0.0
        self._wake()

    def take_down(self, plan: Plan) -> None:
        """Its requests may finish; it is up again when it is asked for. Raises Refused (409) for one that is pinned."""
        if plan.definition is not None and plan.definition.pinned:
            raise Refused(409, f"model {plan.group!r} is pinned: unpin it first", "model_name")
        self._records.of(plan.group).gone()
        if self._fleet.intent.group(plan.group).count:
            if plan.can_sleep:
                self._fleet.intent.sleep(plan.group)
            else:
                self._fleet.intent.take_down(plan.group, math.inf)
            self._emit(plan.group, "model goes: asked to", kind="model.stopping", data={"reason": "asked to"})

    def define(self, plan: Plan, **changes: object) -> Plan:
        """Another definition of it. Raises Refused (409) where those that are pinned would not fit."""
        assert plan.definition is not None
        new = replace(plan, definition=plan.definition.model_copy(update=changes))
        if changes.get("pinned"):
            self._check_pinned(new)
        self._revisions.set_model(new)
        self._in_force.hold()
        what = ", ".join(f"{name} {value}" for name, value in changes.items())
        self._emit(plan.group, f"model is set: {what}", kind="model.set", data=dict(changes))
        self._wake()
        return new

    def leave(self, plan: Plan) -> None:
        """It is known no more, and its workers go."""
        self._revisions.set_model(replace(plan, leaving=True))
        self._records.of(plan.group).gone()
        self._fleet.intent.take_down(plan.group, None)
        self._emit(plan.group, "model is unloaded", kind="model.unloaded")
        self._wake()

    def unneeded_adapters(self, plan: Plan) -> list[str]:
        """Those that go with it. Raises Refused (409) where a route or an alias leads to one of them, or to it."""
        names = list(self._inventory.registry.of(plan.group).adapters)
        for name in (*plan.spec.served_names, *names):
            self._inventory.check_unneeded(name)
        return names

    def _check_pinned(self, plan: Plan) -> None:
        settings = self._revisions.settings
        up = [held for held in self._revisions.served if held.definition is None or held.definition.pinned]
        up = [held for held in up if held.group != plan.group] + [plan]
        needs = [room.footprint(held.placement, held.placement.planned, (), held.engine.computes) for held in up]
        most = settings.max_concurrent_models
        memory = max(held.placement.machine.memory for held in up)
        if (most is not None and len(up) > most) or not room.fit(needs, memory):
            others = ", ".join(held.spec.served_names[0] for held in up[:-1])
            raise Refused(409, f"there is no room for {plan.group!r} beside {others}, which stay up", "model_name")
