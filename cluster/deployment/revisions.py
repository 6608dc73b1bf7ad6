"""The plan that holds, and those before it that workers still run by: a worker is started again with the settings it
had until a rolling restart brings it the new ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cluster.deployment import plan
from cluster.deployment.plan import Plan
from cluster.fleet.groups import DEFAULT
from config.settings import Settings, from_json


class Revisions:
    """The plan of each group of workers. ``number`` counts the changes that concern workers. ``before`` has the
    settings that the last change replaced, and what they were."""

    def __init__(self, *plans: Plan) -> None:
        self._plans, self.number = {plan.group: plan for plan in plans}, 0
        self.before: dict[str, Any] = {}
        self._older: dict[int, str] = {}
        self._made: dict[int, Mapping[str, Plan]] = {}

    @property
    def latest(self) -> Plan:
        """Of the group of all workers for which nothing else is said."""
        return self._plans[DEFAULT]

    @property
    def plans(self) -> Mapping[str, Plan]:
        """By group, those that hold now."""
        return self._plans

    @property
    def settings(self) -> Settings:
        """Those that hold now, which all plans were made from."""
        return self.latest.settings

    def of(self, group: str, number: int) -> Plan:
        """The plan of a worker of ``group`` that was started with the settings ``number``. Raises UsageError where that
        cannot be made any more (what it names may be gone)."""
        if number == self.number or number not in self._older:
            return self._plans[group]
        if number not in self._made:
            made = plan.make(from_json(self._older[number]))
            self._made[number] = {**self._plans, made.group: made}
        return self._made[number][group]

    def change(self, new: Plan, workers: bool, before: Mapping[str, Any]) -> None:
        """``new`` holds from now on; ``workers``: the workers have to be started again for it."""
        if workers:
            self._older[self.number], self._made[self.number] = self.settings.to_json(), self._plans
            self.number = max([self.number, *self._older]) + 1
        self._plans, self.before = {**self._plans, new.group: new}, dict(before)

    def forget(self, used: Collection[int]) -> None:
        """All that no worker runs by any more."""
        for number in self._older.keys() - set(used):
            del self._older[number]
            self._made.pop(number, None)

    def copy(self) -> Revisions:
        made = Revisions(*self._plans.values())
        made.number, made.before = self.number, dict(self.before)
        made._older, made._made = dict(self._older), dict(self._made)
        return made

    def go_back(self, to: Revisions) -> None:
        """To an earlier `copy`."""
        self._plans, self.number, self.before = to._plans, to.number, to.before
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
