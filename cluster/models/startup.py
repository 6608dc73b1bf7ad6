"""Whether the models that a start names can all be up as it says."""

from __future__ import annotations

from collections.abc import Iterable

from cluster.deployment.plan import Plan
from cluster.models import room
from config.errors import UsageError
from config.settings import Settings


def check(settings: Settings, plans: Iterable[Plan]) -> None:
    """Raises UsageError where those that are to be up from the start do not fit beside each other."""
    up = [plan for plan in plans if (plan.definition.from_the_start if plan.definition else plan.placement.planned)]
    names = ", ".join(plan.spec.served_names[0] for plan in up)
    most = settings.max_concurrent_models
    if most is not None and len(up) > most:
        raise UsageError(f"max_concurrent_models {most}: {names} are to be up from the start", exit_code=2)
    workers = {plan.group: plan.placement.planned + plan.placement.spares for plan in up}
    footprints = [room.footprint(plan.placement, workers[plan.group], (), plan.engine.computes) for plan in up]
    memory = max((plan.placement.machine.memory for plan in up), default=0)
    if len(up) > 1 and not room.fit(footprints, memory):
        raise UsageError(
            f"{names} do not fit on this machine at the same time: take `pinned` or `on_demand: false` away from one, "
            "or give it fewer instances"
        )
