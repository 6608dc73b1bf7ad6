"""Runs the plans of `bench`, shows how far they are, and stops them at Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

import uvloop
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from cluster.cli.render import console
from cluster.cli.streams import ending_signals
from cluster.tools.bench.run import BenchPlan, Run
from cluster.tools.bench.samples import BenchRun, Sample
from config.text import printable


def measure(plans: Sequence[BenchPlan]) -> tuple[list[BenchRun], int | None]:
    """One outcome a plan, and the signal that ended it early, if one did."""
    return uvloop.run(_measure(plans))


async def _measure(plans: Sequence[BenchPlan]) -> tuple[list[BenchRun], int | None]:
    outcomes: list[BenchRun] = []
    signals: list[int] = []
    running: list[Run] = []

    def stop(number: int) -> None:
        signals.append(number)
        running[-1].stop()

    loop = asyncio.get_running_loop()
    for plan in plans:
        with _progress(plan) as seen:
            running.append(Run(plan, seen))
            for number in ending_signals():
                loop.add_signal_handler(number, stop, number)
            outcomes.append(await running[-1].go())
        if signals:
            break
    return outcomes, signals[0] if signals else None


def _text(template: str) -> TextColumn:
    """As it is: the name of a model may look like markup."""
    return TextColumn(template, markup=False)


@contextlib.contextmanager
def _progress(plan: BenchPlan) -> Iterator[Callable[[Sample], None]]:
    """A bar on standard error, where that is a terminal. It draws twice a second: what draws does not measure."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield lambda sample: None
        return
    columns = (_text("{task.description}"), BarColumn(), _text("{task.fields[counts]}"), TimeElapsedColumn())
    began, answered, failed = time.monotonic(), 0, 0
    with Progress(*columns, console=screen, transient=True, refresh_per_second=2) as bar:
        of = f"of {plan.requests} " if plan.requests else ""
        name = printable(plan.models[0]) if len(plan.models) == 1 else f"{len(plan.models)} models"
        task = bar.add_task(name, total=plan.requests or plan.duration, counts=f"0 {of}answered")

        def seen(sample: Sample) -> None:
            nonlocal answered, failed
            answered, failed = answered + (sample.error is None), failed + (sample.error is not None)
            done = answered + failed if plan.requests else time.monotonic() - began
            counts = f"{answered} {of}answered" + (f", {failed} failed" if failed else "")
            bar.update(task, completed=done, counts=counts)

        yield seen
