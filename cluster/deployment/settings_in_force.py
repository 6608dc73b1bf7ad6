"""The settings that hold now, and everything that goes by them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cluster.deployment.plan import Plan
from cluster.deployment.revisions import Revisions
from cluster.fleet.fleet import Fleet
from cluster.fleet.groups import WorkerGroup
from cluster.fleet.restart import Backoff
from cluster.fleet.states import DesiredState
from config.settings import Settings


class SettingsInForce:
    """``listeners`` are told of every change."""

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
        fleet.policy = replace(fleet.policy, backoff=Backoff(first=settings.restart_delay))
        for listener in self._listeners:
            listener(settings)
        logging.getLogger().setLevel(settings.log_level.upper())


def by_plans(desired: DesiredState, revisions: Revisions) -> DesiredState:
    """``desired`` with the times of the settings, and what each group is by its plan."""
    settings = revisions.settings
    for name, plan in revisions.plans.items():
        old = desired.groups.get(name) or WorkerGroup(name)
        model = plan.spec.served_names[0]
        desired = desired.with_group(replace(old, model=model, engine=plan.spec.engine, driver=plan.driver))
    return replace(
        desired, drain_timeout=settings.drain_timeout, stop_grace=settings.stop_grace,
        startup_timeout=settings.startup_timeout,
    )
