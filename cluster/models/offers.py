"""What balancers are told of the models: which there are, and whether they answer. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from cluster.deployment.plan import Plan
from cluster.deployment.revisions import Revisions
from cluster.fleet.fleet import Fleet
from cluster.fleet.groups import WorkerGroup
from cluster.fleet.instance import Instance
from cluster.fleet.states import RUNNING, WorkerState
from cluster.models.record import ModelRecords
from config.models import definition
from config.topology import OfferedModel


def state_of(group: WorkerGroup, workers: Iterable[Instance], failed: bool) -> str:
    """One of `config.topology.MODEL_STATES`. ``workers``: all of the group that there are, also those that go;
    ``failed``: it is not to be started, because the latest start came to nothing."""
    there = list(workers)
    if group.count and all(want.asleep for want in group.instances.values()):
        return _resting(there)
    if group.count:
        serving = any(one.state is WorkerState.READY and one.id in group.instances for one in there)
        return "up" if serving else "starting"
    if there:
        return "stopping"
    return "failed" if failed else "down"


def _resting(workers: Iterable[Instance]) -> str:
    """Of a group whose workers are to sleep. One that has ended is started when the others are woken."""
    states = {one.state for one in workers} & RUNNING
    if states - {WorkerState.ASLEEP}:
        return "stopping"
    return "asleep" if states else "down"


class Offers:
    """``adapters(group)``: names of those of that model."""

    def __init__(
        self, revisions: Revisions, fleet: Fleet, records: ModelRecords, adapters: Callable[[str], list[str]]
    ) -> None:
        self._revisions, self._fleet, self._records, self._adapters = revisions, fleet, records, adapters

    def state(self, plan: Plan) -> str:
        """Of the model of that plan, see `state_of`."""
        group, record = self._fleet.intent.group(plan.group), self._records.of(plan.group)
        workers = [one for one in self._fleet.instances.values() if one.group == plan.group]
        return state_of(group, workers, bool(plan.broken or record.why))

    def every(self) -> tuple[OfferedModel, ...]:
        """None where there is one model, which is up."""
        if not self._revisions.definitions:
            return ()
        leading = self._revisions.leading
        return tuple(self._offer(plan, plan is leading) for plan in self._revisions.served)

    def cards(self) -> list[dict[str, Any]]:
        """For people, see `card`; none where there is one model."""
        return [self.card(plan) for plan in self._revisions.served] if self._revisions.definitions else []

    def card(self, plan: Plan) -> dict[str, Any]:
        """All that is known of a model. ``memory_bytes``: of main memory, as its workers are estimated to take."""
        offer, record = self._offer(plan, plan is self._revisions.leading), self._records.of(plan.group)
        workers = [one for one in self._fleet.instances.values() if one.group == plan.group]
        model, use, placement = plan.definition or definition(plan.spec.model), record.use, plan.placement
        counted = plan.engine.computes and not placement.on_gpu
        return {
            "name": offer.name, "names": list(offer.names), "group": plan.group, "path": plan.spec.model,
            "engine": plan.spec.engine, "state": offer.state, "why": offer.why, "retry_at": offer.retry_at or None,
            "is_default": offer.is_default, "managed": plan.definition is not None,
            "pinned": plan.definition is None or model.pinned, "priority": model.priority,
            "idle_timeout": model.idle_timeout, "on_demand": plan.definition is not None and model.on_demand,
            "strategy": model.strategy, "instances": placement.planned,
            "wanted": self._fleet.intent.group(plan.group).count, "ready": self._fleet.ready_count(plan.group),
            "min": plan.least, "max": plan.most,
            "memory_bytes": placement.planned * placement.memory_each if counted else 0,
            "gpus": sorted({gpu for worker in workers for gpu in worker.slot.gpus}),
            "swaps": record.starts, "failures": record.failures, "in_flight": use.in_flight, "waiting": use.waiting,
            "oldest_wait_s": round(use.oldest, 1), "last_used": use.latest,
            "adapters": self._adapters(plan.group),
        }  # fmt: skip

    def _offer(self, plan: Plan, is_default: bool) -> OfferedModel:
        model, record = plan.definition, self._records.of(plan.group)
        wait, strategy = plan.settings.queue_timeout, ""
        if model is not None:
            wait = plan.settings.startup_timeout if model.queue_timeout is None else model.queue_timeout
            strategy = model.strategy or ""
        state = self.state(plan)
        why, retry_at = (plan.broken or record.why, record.retry_wall) if state == "failed" else ("", 0.0)
        return OfferedModel(
            name=plan.spec.served_names[0], names=plan.spec.served_names, group=plan.group, state=state, wait=wait,
            strategy=strategy, why=why, retry_at=retry_at, is_default=is_default,
        )
