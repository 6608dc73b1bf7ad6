"""The plans that hold, and those before them that workers still run by: a worker is started again with the settings it
had until a rolling restart brings it the new ones. And everything else that goes by the settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cluster.deployment import plan
from cluster.deployment.plan import Plan
from cluster.fleet.fleet import Fleet
from cluster.fleet.groups import DEFAULT, WorkerGroup
from cluster.fleet.restart import Backoff
from cluster.fleet.states import DesiredState
from config.settings import Settings, from_json


class Revisions:
    """``plans``: of each group of workers the one that holds now; ``latest`` is that of the group `DEFAULT`,
    ``settings`` are what all were made from. ``number`` counts the changes that concern workers. ``before`` has the
    settings that the last change replaced, and what they were."""

    def __init__(self, *plans: Plan) -> None:
        self._use({made.group: made for made in plans})
        self.number = 0
        self.before: dict[str, Any] = {}
        self._older: dict[int, str] = {}
        self._made: dict[int, Mapping[str, Plan]] = {}

    def _use(self, plans: Mapping[str, Plan]) -> None:
        self.plans, self.latest, self.settings = plans, plans[DEFAULT], plans[DEFAULT].settings

    def of(self, group: str, number: int) -> Plan:
        """The plan of a worker of ``group`` that was started with the settings ``number``. Raises UsageError where that
        cannot be made any more (what it names may be gone)."""
        if number == self.number or number not in self._older:
            return self.plans[group]
        if number not in self._made:
            made = plan.make(from_json(self._older[number]))
            self._made[number] = {**self.plans, made.group: made}
        return self._made[number][group]

    def change(self, new: Plan, workers: bool, before: Mapping[str, Any]) -> None:
        """``new`` holds from now on; ``workers``: the workers have to be started again for it."""
        if workers:
            self._older[self.number], self._made[self.number] = self.settings.to_json(), self.plans
            self.number = max([self.number, *self._older]) + 1
        self._use({**self.plans, new.group: new})
        self.before = dict(before)

    def forget(self, used: Collection[int]) -> None:
        """All that no worker runs by any more."""
        for number in self._older.keys() - set(used):
            del self._older[number]
            self._made.pop(number, None)

    def copy(self) -> Revisions:
        made = Revisions(*self.plans.values())
        made.number, made.before = self.number, dict(self.before)
        made._older, made._made = dict(self._older), dict(self._made)
        return made

    def go_back(self, to: Revisions) -> None:
        """To an earlier `copy`."""
        self._use(to.plans)
        self.number, self.before = to.number, to.before
        self._older, self._made = to._older, to._made

    def durable(self) -> dict[str, Any]:
        """For the store; `restore` reads it."""
        plans = {"number": self.number, "before": self.before, "older": {str(n): s for n, s in self._older.items()}}
        return {"settings": self.settings.to_json(), "plans": plans}

    def restore(self, kept: Mapping[str, Any] | None) -> None:
        """What an earlier supervisor wrote under ``plans``; None: it knew of no changes."""
        if kept:
            self.number, self.before = kept["number"], dict(kept["before"])
            self._older = {int(n): text for n, text in kept["older"].items()}


class SettingsInForce:
    """The settings that hold now. ``listeners`` are told of every change."""

    def __init__(self, revisions: Revisions, fleet: Fleet, listeners: Sequence[Callable[[Settings], None]]) -> None:
        self._revisions, self._fleet, self._listeners = revisions, fleet, listeners

    def use(self, checked: Plan, workers: bool, before: Mapping[str, Any]) -> None:
        """``checked`` holds from now on; see `Revisions.change`."""
        self._revisions.forget({i.settings for i in self._fleet.instances.values()})
        self._revisions.change(checked, workers, before)
        self.hold()

    def hold(self) -> None:
        """What goes by the settings goes by those that hold now."""
        settings, fleet = self._revisions.settings, self._fleet
        fleet.intent.desired = by_plans(fleet.intent.desired, self._revisions)
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
        desired = desired.with_group(
            replace(old, model=spec.served_names[0], engine=spec.engine, driver=held.driver)
        )
    return replace(
        desired, drain_timeout=settings.drain_timeout, stop_grace=settings.stop_grace,
        startup_timeout=settings.startup_timeout,
    )
