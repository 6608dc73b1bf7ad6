"""Whether the workers of a plan are forked from a zygote, or started plainly, and why."""

from __future__ import annotations

from cluster.deployment.plan import Plan
from config.settings import inherited_environment
from worker.drivers.base import LOCAL
from worker.spec import Fork, WorkerEndpoint


def of(plan: Plan) -> Fork | str:
    """The zygote that they may be forked from, or why they cannot be, in words."""
    if plan.driver != LOCAL:
        return "workers on other machines are started plainly"
    slot = plan.placement.slot(0)
    return plan.engine.command(plan.spec, WorkerEndpoint(0), "", slot, inherited_environment()).fork


def reason_against(mode: str, fork: Fork | str) -> str:
    """Why a worker is not forked in ``mode`` (auto, on or off), in words; empty: it is."""
    if mode == "off":
        return "--zygote off"
    if isinstance(fork, str):
        return fork
    return fork.unless_asked and f"{fork.unless_asked} (--zygote on)" if mode == "auto" else ""
