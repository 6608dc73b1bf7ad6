"""How `top` looks: as many columns and lines as there is room for."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from rich.console import Group
from rich.table import Table
from rich.text import Text

from cluster.cli.render import STALE_S, STYLES, cell, duration
from cluster.tools.top.top import ClusterTotals, InstanceRow, fitting


def _number(value: float | None, form: str = ",.0f") -> str:
    return "-" if value is None else format(value, form)


def _rate(value: float | None) -> str:
    return _number(value, ",.1f" if value is not None and value < 100 else ",.0f")


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value * 1000:,.0f} ms" if value < 10 else f"{value:,.1f} s"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.0f} %"


def _memory(megabytes: float | None) -> str:
    return "-" if megabytes is None else f"{megabytes:,.0f} M" if megabytes < 10_000 else f"{megabytes / 1000:,.1f} G"


def _gpu(row: InstanceRow) -> str:
    names = ",".join(map(str, row.gpus)) or "-"
    return names if row.gpu_busy is None else f"{names} {_percent(row.gpu_busy)}"


_COLUMNS: dict[str, tuple[Callable[[InstanceRow], str], bool]] = {
    "instance": (lambda r: r.name, False), "state": (lambda r: r.state, False), "GPU": (_gpu, False),
    "GPU mem": (lambda r: _memory(r.gpu_memory), True), "memory": (lambda r: _memory(r.memory), True),
    "cpu %": (lambda r: _number(r.cpu), True), "in flight": (lambda r: _number(r.in_flight), True),
    "waiting": (lambda r: _number(r.waiting), True), "tok/s": (lambda r: _rate(r.tokens), True),
    "req/s": (lambda r: _rate(r.requests), True), "TTFT p50": (lambda r: _ms(r.p50), True),
    "p99": (lambda r: _ms(r.p99), True), "KV": (lambda r: _percent(r.kv), True),
    "restarts": (lambda r: _number(r.restarts), True), "adapters": (lambda r: _number(r.adapters), True),
    "err/s": (lambda r: _rate(r.errors), True), "up": (lambda r: duration(r.uptime), True),
    "": (lambda r: r.note, False),
}  # fmt: skip

#: Which columns are kept on a narrow terminal, the most important first.
_IMPORTANCE = (
    "instance", "state", "in flight", "tok/s", "TTFT p50", "req/s", "KV", "p99", "restarts", "GPU", "cpu %", "memory",
    "waiting", "adapters", "err/s", "GPU mem", "up", "",
)  # fmt: skip

#: Lines that say what is wrong with instances, where there is no column for it.
_NOTES = 3


def table(rows: Sequence[InstanceRow], width: int) -> tuple[Table, set[str]]:
    """One line an instance, and the columns there was room for."""
    cells = {name: [show(row) for row in rows] for name, (show, _) in _COLUMNS.items()}
    empty = {name for name in ("GPU", "GPU mem", "") if all(cell in ("-", "") for cell in cells[name])}
    wanted = [name for name in _IMPORTANCE if name not in empty]
    widths = {name: max([len(name), *map(len, cells[name])]) for name in wanted}
    if "" in widths:
        widths[""] = min(widths[""], 24)  # it may be cut
    kept = fitting(widths, wanted, width)
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    widths[""] = width - sum(widths[name] + 2 for name in kept if name)  # what is left
    for name, (_, right) in _COLUMNS.items():
        if name in kept:
            justify: Literal["left", "right"] = "right" if right else "left"
            made.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis", width=widths[name])
    for at, row in enumerate(rows):
        made.add_row(*(_cell(name, cells[name][at], row) for name in _COLUMNS if name in kept))
    return made, kept


def _cell(name: str, text: str, row: InstanceRow) -> Text:
    if name == "state":
        return cell(text, STYLES.get(row.state.partition(" ")[0], ""))
    if name == "KV" and row.kv is not None and row.kv > 0.95:
        return cell(text, "red")
    if name == "err/s" and row.errors:
        return cell(text, "red")
    return cell(text, "dim" if name in ("", "up") or text == "-" else "")


def headlines(totals: ClusterTotals, url: str, width: int) -> list[Text]:
    """Two or more lines about the cluster and its balancer."""
    all_there = totals.ready >= totals.wanted
    ready = cell(f"{totals.ready} of {totals.wanted} ready", "bold green" if all_there else "bold red")
    supervisor = f"supervisor {totals.supervisor}" if totals.supervisor else "supervisor not running"
    if totals.age is not None and totals.age > STALE_S:
        supervisor += f", as of {duration(totals.age)} ago"
    adapters = f"{totals.adapters} adapter{'' if totals.adapters == 1 else 's'}"
    first = [
        ready, cell(url), cell(totals.model), cell(adapters), cell(supervisor, "" if totals.supervisor else "bold red")
    ]  # fmt: skip
    balancer = " ".join(map(str, totals.balancers))
    second = [
        cell(f"balancer {balancer}", "bold"), cell(totals.strategy), cell(f"{totals.in_flight} in flight"),
        cell(f"{totals.queued} queued", "red" if totals.queued else ""), cell(f"{_rate(totals.requests)} req/s"),
        cell(f"{_rate(totals.tokens)} tok/s"), cell(f"{_rate(totals.errors)} err/s", "red" if totals.errors else ""),
        cell(f"TTFT p50 {_ms(totals.p50)} p99 {_ms(totals.p99)}"),
    ]  # fmt: skip
    return [*_filled(first, width), *_filled(second, width)]


def _filled(parts: list[Text], width: int) -> list[Text]:
    """The parts on as few lines as they need."""
    lines: list[Text] = []
    for part in parts:
        if lines and len(lines[-1].plain) + 3 + len(part.plain) <= width:
            lines[-1].append(" · ", "dim").append_text(part)
        else:
            lines.append(part.copy())
    for line in lines:
        line.no_wrap, line.overflow = True, "ellipsis"
    return lines


def event_line(event: Mapping[str, Any]) -> Text:
    at = time.strftime("%H:%M:%S", time.localtime(event["at"]))
    return Text.assemble((at, "dim"), "  ", cell(event["text"]), no_wrap=True, overflow="ellipsis")


def screen(
    totals: ClusterTotals, rows: Sequence[InstanceRow], events: Sequence[Mapping[str, Any]], url: str, width: int,
    height: int | None, bar: str = "", trouble: str = "",
) -> Group:
    """All of it. ``height``: lines there are, None for as many as it takes; ``bar``: the last line; ``trouble``: why
    it is not of now."""
    parts: list[Any] = headlines(totals, url, width)
    if height is not None:  # the instances come first
        del parts[max(1, height - 6) :]
    if trouble:
        parts.append(cell(trouble, "bold red", no_wrap=True, overflow="ellipsis"))
    left = None if height is None else max(1, height - len(parts) - 2 - bool(bar))  # an empty line, the header
    shown = rows if left is None or len(rows) <= left else rows[: max(1, left - 1)]
    made, kept = table(shown, width)
    parts += [cell(""), made]
    used = len(shown)
    if hidden := len(rows) - len(shown):
        parts.append(cell(f"… {hidden} more", "dim"))
        used += 1
    wrong = [row for row in rows if row.note and "" not in kept]
    notes = [cell(f"{row.name}: {row.note}", no_wrap=True, overflow="ellipsis") for row in wrong]
    for lines, most in ((notes, _NOTES), ([event_line(event) for event in events], len(events))):
        room = most if left is None else min(most, left - used - 1)
        if lines and room > 0:
            parts += [cell(""), *lines[-room:]]
            used += 1 + min(room, len(lines))
    if bar:
        if left is not None:
            parts += [cell("")] * (left - used)
        parts.append(cell(bar[:width].ljust(width), "reverse", no_wrap=True, overflow="crop"))
    return Group(*parts)
