"""The plans that hold, and those before them that workers still run by: a worker is started again with the settings it
had until a rolling restart brings it the new ones. And everything else that goes by the settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cluster.deployment import model_plans, plan
from cluster.deployment.plan import Plan
from cluster.errors import Refused
from cluster.fleet.fleet import Fleet
from cluster.fleet.groups import DEFAULT, WorkerGroup
from cluster.fleet.restart import Backoff
from cluster.fleet.states import DesiredState
from config.errors import nearest
from config.models import ModelDefinition
from config.settings import Settings, from_json


class Revisions:
    """``plans``: of each group of workers the one that holds now; ``latest`` is that of the group `DEFAULT`,
    ``settings`` are what all were made from, with what the definitions of models say. ``number`` counts the changes
    that concern workers. ``before`` has the settings that the last change replaced, and what they were."""

    def __init__(self, *plans: Plan) -> None:
        self._use({made.group: made for made in plans})
        self.number = 0
        self.before: dict[str, Any] = {}
        self._older: dict[int, str] = {}
        self._made: dict[int, dict[str, Plan]] = {}

    def _use(self, plans: Mapping[str, Plan]) -> None:
        self.plans, self.latest, self.settings = plans, plans[DEFAULT], plans[DEFAULT].settings

    @property
    def served(self) -> list[Plan]:
        """Of the models that there are: the group `DEFAULT` is of none in a cluster of several."""
        there = (held for held in self.plans.values() if not held.leaving)
        return [held for held in there if held.definition is not None or not self.settings.only_models]

    @property
    def leading(self) -> Plan:
        """Of the model that answers requests which name none."""
        served = {held.group: held for held in self.served}
        return served.get(self.settings.default_model or DEFAULT) or next(iter(served.values()), self.latest)

    @property
    def definitions(self) -> dict[str, ModelDefinition]:
        """Of the models of a cluster that has several."""
        return {held.group: held.definition for held in self.served if held.definition is not None}

    @property
    def leaving(self) -> dict[str, ModelDefinition]:
        """Of those that were unloaded, while workers of them are there."""
        gone = (held for held in self.plans.values() if held.leaving)
        return {held.group: held.definition for held in gone if held.definition is not None}

    def named(self, name: str) -> Plan:
        """Of the model that has that name. Raises Refused (404)."""
        for held in self.served:
            if name in held.spec.served_names:
                return held
        known = [each for held in self.served for each in held.spec.served_names]
        raise Refused(404, f"no model {name!r}{nearest(name, known)}; there are: {', '.join(known) or 'none'}", "model")

    def chosen(self, name: str | None) -> Plan:
        """What a command is about: with several models one of them has to be named. Raises Refused."""
        if name is not None:
            return self.named(name)
        if len(self.served) == 1 or not self.definitions:
            return self.leading
        known = ", ".join(held.spec.served_names[0] for held in self.served)
        raise Refused(409, f'of which model? "model" is one of {known} (--model NAME on the command line)', "model")

    def of(self, group: str, number: int) -> Plan:
        """The plan of a worker of ``group`` that was started with the settings ``number``. Raises UsageError where that
        cannot be made any more (what it names may be gone)."""
        held = self.plans[group]
        if number == self.number or number not in self._older:
            return held
        made = self._made.setdefault(number, {})
        if group not in made:
            before = from_json(self._older[number])
            made[group] = (
                plan.make(before) if group == DEFAULT
                else held if held.definition is None else model_plans.make_group(before, group, held.definition)
            )
        return made[group]

    def change(self, new: Collection[Plan], workers: bool, before: Mapping[str, Any]) -> None:
        """``new`` hold from now on; ``workers``: the workers have to be started again for them."""
        if workers:
            self._older[self.number], self._made[self.number] = self.settings.to_json(), dict(self.plans)
            self.number = max([self.number, *self._older]) + 1
        self._use({**self.plans, **{made.group: made for made in new}})
        self.before = dict(before)

    def set_model(self, made: Plan) -> None:
        """One more model, or another definition of one."""
        self._use({**self.plans, made.group: made})

    def forget_model(self, group: str) -> None:
        """Of whose workers none is left."""
        self._use({name: held for name, held in self.plans.items() if name != group})
        for older in self._made.values():
            older.pop(group, None)

    def forget(self, used: Collection[int]) -> None:
        """All that no worker runs by any more."""
        for number in self._older.keys() - set(used):
            del self._older[number]
            self._made.pop(number, None)

    def copy(self) -> Revisions:
        made = Revisions(*self.plans.values())
        made.number, made.before = self.number, dict(self.before)
        made._older, made._made = dict(self._older), {number: dict(plans) for number, plans in self._made.items()}
        return made

    def go_back(self, to: Revisions) -> None:
        """To an earlier `copy`."""
        self._use(to.plans)
        self.number, self.before = to.number, to.before
        self._older, self._made = to._older, to._made

    def durable(self) -> dict[str, Any]:
        """For the store; `restore` reads it."""
        plans = {"number": self.number, "before": self.before, "older": {str(n): s for n, s in self._older.items()}}
        kept = {"models": self.definitions, "leaving_models": self.leaving}
        models = {key: {name: model.to_json() for name, model in each.items()} for key, each in kept.items()}
        return {"settings": self.settings.to_json(), "plans": plans, **models}

    def restore(self, kept: Mapping[str, Any] | None) -> None:
        """What an earlier supervisor wrote under ``plans``; None: it knew of no changes."""
        if kept:
            self.number, self.before = kept["number"], dict(kept["before"])
            self._older = {int(n): text for n, text in kept["older"].items()}


class SettingsInForce:
    """The settings that hold now. ``listeners`` are told of every change."""

    def __init__(self, revisions: Revisions, fleet: Fleet, listeners: Sequence[Callable[[Settings], None]]) -> None:
        self._revisions, self._fleet, self._listeners = revisions, fleet, listeners

    def use(self, checked: Collection[Plan], workers: bool, before: Mapping[str, Any]) -> None:
        """``checked`` holds from now on; see `Revisions.change`."""
        self._revisions.forget({i.settings for i in self._fleet.instances.values()})
        self._revisions.change(checked, workers, before)
        self.hold()

    def hold(self) -> None:
        """What goes by the settings goes by those that hold now."""
        settings, fleet = self._revisions.settings, self._fleet
        fleet.intent.desired = by_plans(fleet.intent.desired, self._revisions)
        fleet.intent.fill()
        fleet.intent.names.given = settings.model_names
        fleet.policy = replace(fleet.policy, backoff=Backoff(first=settings.restart_delay))
        for listener in self._listeners:
            listener(settings)
        logging.getLogger().setLevel(settings.log_level.upper())


def by_plans(desired: DesiredState, revisions: Revisions) -> DesiredState:
    """``desired`` with the times of the settings, and what each group is by its plan."""
    settings = revisions.settings
    for name, held in revisions.plans.items():
        old, spec = desired.groups.get(name) or WorkerGroup(name), held.spec
        desired = desired.with_group(replace(
            old, model=spec.served_names[0], engine=spec.engine, driver=held.driver,
            standby_count=held.settings.spares, capacity=held.placement.room_beside(held.settings.spares),
            startup_timeout=None if held.definition is None else held.settings.startup_timeout,
        ))  # fmt: skip
    busy = [held.placement for held in revisions.plans.values() if held.engine.busy_start]
    return replace(
        desired, starts_at_once=len(busy[0].machine.cores) or 1 if busy else None,
        drain_timeout=settings.drain_timeout, stop_grace=settings.stop_grace,
        startup_timeout=settings.startup_timeout,
    )
