"""The plan that holds, and those before it that workers still run by: a worker is started again with the settings it
had until a rolling restart brings it the new ones."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from cluster.deployment import plan
from cluster.deployment.plan import Plan
from config.settings import from_json


class Revisions:
    """``number`` counts the changes that concern workers. ``before`` has the settings that the last change replaced,
    and what they were."""

    def __init__(self, latest: Plan) -> None:
        self.latest, self.number = latest, 0
        self.before: dict[str, Any] = {}
        self._older: dict[int, str] = {}
        self._made: dict[int, Plan] = {}

    def of(self, number: int) -> Plan:
        """The plan of a worker that was started with the settings ``number``. Raises UsageError where that cannot be
        made any more (what it names may be gone)."""
        if number == self.number or number not in self._older:
            return self.latest
        if number not in self._made:
            self._made[number] = plan.make(from_json(self._older[number]))
        return self._made[number]

    def change(self, new: Plan, workers: bool, before: Mapping[str, Any]) -> None:
        """``new`` holds from now on; ``workers``: the workers have to be started again for it."""
        if workers:
            self._older[self.number], self._made[self.number] = self.latest.settings.to_json(), self.latest
            self.number = max([self.number, *self._older]) + 1
        self.latest, self.before = new, dict(before)

    def forget(self, used: Collection[int]) -> None:
        """All that no worker runs by any more."""
        for number in self._older.keys() - set(used):
            del self._older[number]
            self._made.pop(number, None)

    def copy(self) -> Revisions:
        made = Revisions(self.latest)
        made.number, made.before = self.number, dict(self.before)
        made._older, made._made = dict(self._older), dict(self._made)
        return made

    def go_back(self, to: Revisions) -> None:
        """To an earlier `copy`."""
        self.latest, self.number, self.before = to.latest, to.number, to.before
        self._older, self._made = to._older, to._made

    def durable(self) -> dict[str, Any]:
        """For the store; `restore` reads it."""
        plans = {"number": self.number, "before": self.before, "older": {str(n): s for n, s in self._older.items()}}
        return {"settings": self.latest.settings.to_json(), "plans": plans}

    def restore(self, kept: Mapping[str, Any] | None) -> None:
        """What an earlier supervisor wrote under ``plans``; None: it knew of no changes."""
        if kept:
            self.number, self.before = kept["number"], dict(kept["before"])
            self._older = {int(n): text for n, text in kept["older"].items()}
