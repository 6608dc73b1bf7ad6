"""Watches one server with probes and reports what changes. It decides nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from worker.probe import Cards, ProbeFailed, Target, readiness, wait_until_up


class Health(StrEnum):
    WELL = "well"
    OUT = "out of rotation"
    LOST = "to be restarted"


@dataclass(slots=True)
class Liveness:
    """``failures`` in a row take a worker out of rotation, ``fatal`` in a row give it up; one success clears the
    count. `observe` returns the new health if it changed, so that a change is acted on and logged once."""

    failures: int
    fatal: int
    health: Health = Health.WELL
    in_row: int = 0

    def observe(self, ok: bool) -> Health | None:
        self.in_row = 0 if ok else self.in_row + 1
        before = self.health
        if ok:
            self.health = Health.WELL
        elif self.in_row >= self.fatal:
            self.health = Health.LOST
        elif self.in_row >= self.failures:
            self.health = Health.OUT
        return self.health if self.health is not before else None


class ProbeReporter(Protocol):
    def phase(self, text: str) -> None:
        """How far a start has come."""

    def not_yet(self, why: str) -> None:
        """It is up, but has not done what it has to before it may be ready; it is tried again."""

    def ready(self, cards: Cards) -> None:
        """It has answered a real request."""

    def seats(self, count: int | None) -> None:
        """How many requests it computes at a time, where it says."""

    def looked(self, cards: Cards) -> None:
        """What `/v1/models` shows at every probe."""

    def unhealthy(self, why: str, lost: bool, slow: bool = False) -> None:
        """Probes failed in a row; ``lost``: so many that it will not come back by itself; ``slow``: there was no
        answer in time. Said again with every further one that fails."""


@dataclass(slots=True)
class ProbePlan:
    """Seconds, and failed probes in a row; what is changed here holds from the next probe on. ``token_timeout``
    bounds one real request: the first one on a cold engine can take long. ``crowd()``: by how much longer pauses are,
    as there are many to ask (`stretch`)."""

    startup_interval: float
    interval: float
    failures: int
    fatal: int
    token_timeout: float = 120.0
    health_required: bool = True
    crowd: Callable[[], float] = lambda: 1.0


#: Workers that one supervisor asks as often as its settings say. A question and its answer take it about a quarter of a
#: millisecond of a processor, each worker is asked one or two a second.
CROWD = 250


def stretch(workers: int) -> float:
    """By how much longer the pauses between questions are with so many workers: as many questions a second as
    `CROWD` of them are asked. An end or a broken connection is noticed without a question."""
    return max(1.0, workers / CROWD)


async def nothing() -> None:
    """There is nothing to prepare on a server that is not ours."""


async def watch(
    target: Target, plan: ProbePlan, report: ProbeReporter, *, known: Health | None = None,
    alarm: asyncio.Event | None = None, prepare: Callable[[], Awaitable[None]] = nothing,
) -> None:
    """Startup, readiness, then liveness until cancelled. ``known``: what an adopted worker was last seen to be.
    ``alarm`` asks for a probe at once; one that fails then is believed without a second. ``prepare`` brings a worker
    that is up into the state it has to be in before it may be ready, and raises ProbeFailed if it cannot."""
    if known is None:
        if plan.health_required:
            await wait_until_up(target, plan.startup_interval)
        report.phase("loading adapters, waiting for the first token")
        cards = await _until_ready(target, plan, prepare, report)
        with contextlib.suppress(ProbeFailed):
            report.seats(await target.seats())
        report.ready(cards)
    liveness = Liveness(plan.failures, plan.fatal, known or Health.WELL)
    while True:
        alarmed = await _pause(plan.interval * plan.crowd(), alarm)
        failure = await _check(target, plan, report)
        if failure is not None and alarmed:
            report.unhealthy(f"a process of it ended, then {failure}", lost=True)
            continue
        result = None
        if failure is None and liveness.health is not Health.WELL:
            try:  # it comes back only with a real answer
                await prepare()
                result = await readiness(target, plan.token_timeout)
            except ProbeFailed as error:
                failure = error
        liveness.failures, liveness.fatal = plan.failures, plan.fatal
        liveness.observe(failure is None)
        if result is not None:
            report.ready(result)
        elif liveness.health is not Health.WELL and failure is not None:
            report.unhealthy(str(failure), lost=liveness.health is Health.LOST, slow=failure.slow)


async def _pause(seconds: float, alarm: asyncio.Event | None) -> bool:
    """Sleeps, or returns True as soon as the alarm is raised."""
    if alarm is None:
        await asyncio.sleep(seconds)
        return False
    try:
        # Not wait_for: in Python 3.11 it swallows a cancellation that comes in the moment of the alarm, which is
        # just when a worker ends.
        async with asyncio.timeout(seconds):
            await alarm.wait()
    except TimeoutError:
        return False
    alarm.clear()
    return True


async def _check(target: Target, plan: ProbePlan, report: ProbeReporter) -> ProbeFailed | None:
    """Liveness: None, or what is wrong."""
    try:
        await target.healthy(plan.health_required)
        report.looked(await target.models())
    except ProbeFailed as error:
        return error
    return None


async def _until_ready(
    target: Target, plan: ProbePlan, prepare: Callable[[], Awaitable[None]], report: ProbeReporter
) -> Cards:
    while True:
        try:
            await prepare()
            return await readiness(target, plan.token_timeout)
        except ProbeFailed as error:
            report.not_yet(f"not ready: {error}")
            await asyncio.sleep(plan.startup_interval)
