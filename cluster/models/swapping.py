"""Looks a few times a second which models should be up (`cluster.models.policy`), and brings that about on the way of
every other change: stored first."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping

from cluster.deployment.plan import Plan
from cluster.deployment.revisions import Revisions
from cluster.events import Emit
from cluster.fleet.fleet import Fleet
from cluster.fleet.instance import Instance
from cluster.fleet.states import WorkerState
from cluster.models import room
from cluster.models.offers import Offers
from cluster.models.policy import ModelNow, ModelStep, StepKind, SwapRules, decide
from cluster.models.record import ModelRecord, ModelRecords, ModelUse
from cluster.models.room import Footprint
from cluster.storage.store import NotSaved

#: Seconds between two looks, while nobody asks for a model.
EVERY = 0.25

#: For so long (s) a model is asked for after somebody said so: balancers repeat it each second.
ASKED_S = 3.0

#: `cluster.supervisor.loop.Supervisor.command`.
Command = Callable[[Callable[[], None]], Awaitable[None]]


class Swapping:
    """``uses()``: what balancers report of each model, by name. ``command`` as of the supervisor; ``now``: s,
    monotonic, ``wall``: s since the epoch."""

    def __init__(
        self, fleet: Fleet, revisions: Revisions, records: ModelRecords, offers: Offers,
        uses: Callable[[], Mapping[str, ModelUse]], command: Command, emit: Emit, now: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._fleet, self._revisions, self._records, self._offers = fleet, revisions, records, offers
        self._uses, self._command, self._emit, self._time, self._wall = uses, command, emit, now, wall
        self._asked = asyncio.Event()

    def ask(self, name: str) -> None:
        """Somebody wants the model of that name up."""
        for plan in self._revisions.served:
            if name in plan.spec.served_names:
                self._records.of(plan.group).asked_at = self._time()
                self.wake()

    def wake(self) -> None:
        """Looks at once."""
        self._asked.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            try:
                async with asyncio.timeout(EVERY):
                    await self._asked.wait()
            except TimeoutError:
                continue
            self._asked.clear()

    async def look(self) -> None:
        """Sees how the models are, and does what follows."""
        if len(self._revisions.plans) == 1 or self._fleet.intent.desired.shutting_down:
            return
        steps = decide(self._models(), self._rules())
        failed = [plan for plan in self._revisions.served if self._failed(plan)]
        if not steps and not failed and not self._gone():
            return
        try:
            await self._command(lambda: self._carry_out(steps, failed))
        except NotSaved:  # the store has said so, and the next look comes to the same
            return

    # what is known

    def _models(self) -> list[ModelNow]:
        uses = self._uses()
        return [self._now(plan, uses.get(plan.spec.served_names[0], ModelUse())) for plan in self._revisions.served]

    def _now(self, plan: Plan, use: ModelUse) -> ModelNow:
        record, model, now = self._records.of(plan.group), plan.definition, self._time()
        record.use, state = use, self._offers.state(plan)
        if state == "up":
            record.answers(now)
        up = now - record.up_since if record.up_since is not None else 0.0
        since_used = math.inf if use.latest is None else max(0.0, self._wall() - use.latest)
        retry_in = math.inf if plan.broken else max(0.0, record.retry_at - now)
        return ModelNow(
            plan.group, state, pinned=model is None or model.pinned,
            priority=0 if model is None else model.priority,
            idle_timeout=None if model is None else model.idle_timeout, can_sleep=plan.can_sleep,
            in_flight=use.in_flight, waiting=use.waiting, oldest=use.oldest,
            asked=record.wanted or self._is_asked(record, now), idle=min(up, since_used), up=up, retry_in=retry_in,
        )

    def _is_asked(self, record: ModelRecord, now: float) -> bool:
        return record.asked_at is not None and now - record.asked_at < ASKED_S

    def _rules(self) -> SwapRules:
        settings, plans = self._revisions.settings, self._revisions.plans
        footprints = {plan.group: self._takes(plan) for plan in self._revisions.served}
        memory = max((plan.placement.machine.memory for plan in plans.values()), default=0)

        def fit(names: Iterable[str]) -> bool:
            return room.fit([footprints[name] for name in names], memory)

        return SwapRules(settings.max_concurrent_models, settings.min_up, settings.swap_after, fit)

    def _takes(self, plan: Plan) -> Footprint:
        slots = [worker.slot for worker in self._workers(plan)]
        group = self._fleet.intent.group(plan.group)
        count = max(plan.placement.planned + plan.placement.spares, group.count + len(group.standbys))
        return room.footprint(plan.placement, count, slots, plan.engine.computes)

    def _workers(self, plan: Plan) -> list[Instance]:
        return [one for one in self._fleet.instances.values() if one.group == plan.group]

    def _failed(self, plan: Plan) -> bool:
        """Whether its start came to nothing: each of its workers ended before any was ready, or failed for good."""
        wanted, workers = self._fleet.intent.group(plan.group).lasting, self._workers(plan)
        if plan.definition is None or not wanted or {one.id for one in workers} != wanted.keys():
            return False
        if all(one.state is WorkerState.FAILED for one in workers):
            return True
        return all(one.history.early and one.start_seconds is None for one in workers)

    def _gone(self) -> list[Plan]:
        """Those that were unloaded, and of which nothing is left."""
        return [plan for plan in self._revisions.plans.values() if plan.leaving and not self._workers(plan)]

    # what is done, in the task that owns the state

    def _carry_out(self, steps: Iterable[ModelStep], failed: Iterable[Plan]) -> None:
        """But what is not so any more."""
        if self._fleet.intent.desired.shutting_down:
            return
        for plan in self._gone():
            self._revisions.forget_model(plan.group)
            self._fleet.intent.forget_group(plan.group)
            self._records.forget(plan.group)
        for plan in failed:
            if plan.group in self._revisions.plans and self._failed(plan):
                self._give_up(plan)
        for step in steps:
            known = self._revisions.plans.get(step.model)
            if known is not None and known.definition is not None:
                self._do(step, known)

    def _do(self, step: ModelStep, plan: Plan) -> None:
        state, record = self._offers.state(plan), self._records.of(plan.group)
        if step.kind in (StepKind.START, StepKind.WAKE) and state in ("down", "failed", "asleep"):
            record.starts += 1
            if state == "asleep":
                self._fleet.intent.wake(plan.group)
            else:
                self._fleet.intent.bring_up(plan.group, plan.placement.planned)
            self._emit(plan.group, f"model is started: {step.why}", kind="model.starting", data={"reason": step.why})
        elif step.kind in (StepKind.UNLOAD, StepKind.SLEEP) and state == "up":
            record.gone()
            if step.kind is StepKind.SLEEP:
                self._fleet.intent.sleep(plan.group)
            else:
                self._fleet.intent.take_down(plan.group, math.inf)
            self._emit(plan.group, f"model goes: {step.why}", kind="model.stopping", data={"reason": step.why})
        elif step.kind is StepKind.REFUSE and state in ("down", "failed"):
            self._fail(plan, step.why)

    def _give_up(self, plan: Plan) -> None:
        worker = self._workers(plan)[0]
        ended = worker.last_exit or {}
        self._fleet.intent.take_down(plan.group, None)
        log = f"; its log is {worker.spec.log}" if worker.spec else ""  # the worker is soon not in any list
        self._fail(plan, f"{worker.id} {ended.get('reason') or worker.reason}{log}")

    def _fail(self, plan: Plan, why: str) -> None:
        record = self._records.of(plan.group)
        record.failed(why, self._time(), self._wall())
        record.wanted = plan.definition is not None and not plan.definition.on_demand
        self._emit(
            plan.group, f"model could not be started: {why}", kind="model.failed",
            data={"reason": why, "failures": record.failures, "retry_at": record.retry_wall},
        )
