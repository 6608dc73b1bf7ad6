"""The settings that hold now, and everything that goes by them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cluster.deployment.plan import Plan
from cluster.deployment.revisions import Revisions
from cluster.fleet.fleet import Fleet
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
        settings, fleet = self._revisions.latest.settings, self._fleet
        fleet.intent.desired = with_times(fleet.intent.desired, settings)
        fleet.policy = replace(fleet.policy, backoff=Backoff(first=settings.restart_delay))
        for listener in self._listeners:
            listener(settings)
        logging.getLogger().setLevel(settings.log_level.upper())


def with_times(desired: DesiredState, settings: Settings) -> DesiredState:
    return replace(
        desired, drain_timeout=settings.drain_timeout, stop_grace=settings.stop_grace,
        startup_timeout=settings.startup_timeout,
    )
