"""How far a job (`config.jobs`) is, on a terminal or in a file. `cluster.cli.progress` has one done."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID
from rich.text import Text

from cluster.cli.render import cell, console, duration
from config.jobs.said import JobNote, JobProgress, Said

#: Stages that a display remembers: the bars of those before go.
_MOST_STAGES = 12

#: Seconds between two lines about one stage where there is no terminal.
_LINE_EVERY = 5.0

#: Units whose amounts are shown in KiB, MiB ….
_BYTES = frozenset({"B", "bytes"})


class JobDisplay:
    """A bar a stage on a terminal, else now and then a line. What is shown was written by others. Use as a context
    manager; ``now``: seconds that only rise."""

    def __init__(self, screen: Console | None = None, now: Callable[[], float] = time.monotonic) -> None:
        self._screen, self._now = screen or console(stderr=True), now
        self._bars = _bars(self._screen) if self._screen.is_terminal else None
        self._stages: dict[str, TaskID] = {}
        self._stage, self._told_at, self._begun = "", 0.0, (0.0, 0.0)

    def __enter__(self) -> JobDisplay:
        if self._bars is not None:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, said: Said) -> None:
        if isinstance(said, JobNote):
            self._screen.print(cell(said.text))
        elif isinstance(said, JobProgress) and self._bars is not None:
            self._bar(self._bars, said)
        elif isinstance(said, JobProgress):
            self._line(said)

    def _bar(self, bars: Progress, said: JobProgress) -> None:
        fields: dict[str, Any] = {"total": said.total, "unit": said.unit, "figures": figures(said.figures)}
        if (task := self._stages.get(said.stage)) is not None:
            bars.update(task, completed=said.done, **fields)
            return
        if len(self._stages) >= _MOST_STAGES:
            bars.remove_task(self._stages.pop(next(iter(self._stages))))
        self._stages[said.stage] = bars.add_task(said.stage, completed=said.done, **fields)  # type: ignore[arg-type]

    def _line(self, said: JobProgress) -> None:
        """The first and the last of a stage, and some in between."""
        whole = said.total is not None and said.done >= said.total
        if said.stage == self._stage and not whole and self._now() - self._told_at < _LINE_EVERY:
            return
        if said.stage != self._stage:
            self._begun = self._now(), said.done
        self._stage, self._told_at = said.stage, self._now()
        self._screen.print(cell(", ".join(filter(None, [sentence(said), self._left(said)]))), soft_wrap=True)

    def _left(self, said: JobProgress) -> str:
        """How much longer the stage takes, if it goes on as it has so far."""
        (begun_at, begun_with), now = self._begun, self._now()
        if said.total is None or not begun_with < said.done < said.total:
            return ""
        return f"{duration((now - begun_at) / (said.done - begun_with) * (said.total - said.done))} left"


def sentence(said: JobProgress) -> str:
    """``train: 120 of 400 steps, 30 %, loss 0.31``"""
    share = f", {100 * said.done / said.total:.0f} %" if said.total else ""
    return ", ".join(filter(None, [f"{said.stage}: {_amounts(said.done, said.total, said.unit)}{share}",
                                   figures(said.figures)]))


def figures(values: Mapping[str, float | str]) -> str:
    """``loss 0.31, tokens/s 812``"""
    shown = (f"{value:.4g}" if isinstance(value, int | float) else value for value in values.values())
    return ", ".join(f"{name} {value}" for name, value in zip(values, shown, strict=True))


def _amounts(done: float, total: float | None, unit: str) -> str:
    if unit in _BYTES:
        return _bytes(done) if total is None else f"{_bytes(done)} of {_bytes(total)}"
    of = "" if total is None else f" of {total:g}"
    return f"{done:g}{of} {unit}".rstrip()


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def _bars(screen: Console) -> Progress:
    columns = (_Column(lambda task: cell(task.description)), BarColumn(24), _Column(_state))
    return Progress(*columns, console=screen, refresh_per_second=5)


class _Column(ProgressColumn):
    def __init__(self, shown: Callable[[Task], Text]) -> None:
        super().__init__()
        self._shown = shown

    def render(self, task: Task) -> Text:
        return self._shown(task)


def _state(task: Task) -> Text:
    """How much, how fast, how much longer, and what else is to be said."""
    unit = str(task.fields.get("unit", ""))
    parts = [_amounts(task.completed, task.total, unit)]
    if not task.finished and task.speed:
        parts.append(f"{_bytes(task.speed)}/s" if unit in _BYTES else f"{task.speed:.3g} {unit}/s")
        if task.time_remaining is not None:
            parts.append(f"{duration(task.time_remaining)} left")
    return cell(", ".join(filter(None, [*parts, str(task.fields.get("figures", ""))])))
