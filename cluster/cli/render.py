"""How things look on a terminal. What is shown was chosen by others: it goes through `say` or `cell`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from config.text import printable
from config.topology import SPARE

#: A status is told once a second: what is older (s) says so.
STALE_S = 5.0

#: Of the states of an instance.
STYLES = {
    "ready": "green", "starting": "yellow", "draining": "yellow", "stopping": "yellow", "backoff": "red",
    "unhealthy": "red", SPARE: "cyan", "drained": "yellow", "asleep": "dim", "failed": "bold red", "stopped": "dim",
}  # fmt: skip


_COLUMNS = (
    ("instance", False), ("state", False), ("node", False), ("pid", True), ("port", True), ("gpus", False),
    ("weight", True), ("in flight", True), ("requests", True), ("errors", True), ("restarts", True), ("up", True),
    ("cpu %", True), ("MB", True), ("", False),
)  # fmt: skip

#: What is left of it on a narrow terminal.
_NARROW = {"instance", "state", "node", "pid", "port", "in flight", "requests", "restarts", ""}


def console(stderr: bool = False) -> Console:
    """As wide as the terminal; into a file or a pipe, as wide as it takes."""
    plain: dict[str, Any] = {"stderr": stderr, "highlight": False, "markup": False, "emoji": False}
    found = Console(**plain)
    return found if found.is_terminal else Console(**plain, width=220)


def say(text: str, *, err: bool = False) -> None:
    """One line for people, whatever stands in it."""
    click.echo(printable(text), err=err)


def say_json(value: object) -> int:
    """For programs; the exit code of a command that says no more."""
    click.echo(json.dumps(value, indent=2))
    return 0


def cell(value: object, style: str = "", *, lines: bool = False, **options: Any) -> Text:
    """A part of a table or a line of its own: text as it stands, whoever chose it. A dash for what is not known."""
    return Text("-" if value is None else printable(str(value), lines=lines), style, **options)


def status_table(status: Mapping[str, Any], width: int) -> Table:
    """One row an instance; what is wrong with one stands in the last column. ``width`` in characters."""
    supervisor = status["supervisor"]
    pid = supervisor.get("pid")
    title = (
        f"{status['running_instances']} of {status['total_instances']} ready · {status['load_balancer_strategy']} · "
        f"supervisor {pid if pid else 'not running'} · balancer {status['load_balancer']['pid']}"
    )
    if (found := status.get("autoscale")) is not None and found["target"] is not None:
        would = "would want" if found["mode"] == "advise" else "wants"
        title += f" · autoscaling {would} {found['target']}, {found['needed']:.2f} needed"
    if joined := status["load_balancer"].get("joined"):
        title += f" and {', '.join(machine['name'] for machine in joined)}"
    if (age := supervisor.get("age_s")) is not None and age > STALE_S:
        title += f" · as of {duration(age)} ago"
    if finishing := len(status["load_balancer"].get("draining", ())):
        title += f" ({finishing} replaced, finishing)"
    table = Table(title=printable(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    wide, on_nodes = width >= 110, bool(status.get("nodes"))
    columns = {name for name, _ in _COLUMNS if (wide or name in _NARROW) and (on_nodes or name != "node")}
    for name, right in _COLUMNS:
        if name in columns:
            table.add_column(name, justify="right" if right else "left", no_wrap=name != "")
    for name, i in status["instances"].items():
        spare = " (spare)" if i.get("spare") and i["state"] != SPARE else ""
        state = i["state"] + (" (degraded)" if i["degraded"] else "") + spare
        note = i["reason"] or i.get("phase") or ""
        if not note and i["last_exit"] and not i["last_exit"]["expected"]:
            note = f"last end: {i['last_exit']['reason']}"
        if not note and i.get("url"):
            note = f"{i['url']}, by {i.get('origin', '--backend')}"
        cells: tuple[str | Text, ...] = (
            cell(name), cell(state, STYLES.get(i["state"], "")), cell(i.get("node")), cell(i["pid"]), cell(i["port"]),
            cell(",".join(map(str, i["gpus"])) or None), cell(i["weight"]), cell(i["in_flight"]),
            cell(i["requests_total"]), cell(i["errors_total"]), cell(i["restarts"]), duration(i["uptime_s"]),
            cell(i["cpu_percent"]), cell(i["memory_mb"] and round(i["memory_mb"])), cell(note, "dim"),
        )
        shown = zip(_COLUMNS, cells, strict=True)
        table.add_row(*(cell for (column, _), cell in shown if column in columns))
    below = [
        *map(_node, status.get("nodes", ())), *map(_zygote, status.get("zygote", {}).get("processes", ())),
        *map(_listed, status.get("discovery", ())),
    ]  # fmt: skip
    if below:
        table.caption, table.caption_justify = cell("; ".join(below)), "left"  # no markup of strangers
    return table


def _node(seen: Mapping[str, Any]) -> str:
    """A node, and what runs there."""
    state = seen["state"] if seen["state"] == "up" else f"{seen['state']}, heard {duration(seen['heard_s'])} ago"
    gpus = f", {seen['free_gpus']:g} of {seen['gpus']:g} GPUs free" if seen["gpus"] else ""
    count = len(seen["instances"])
    return f"{seen['name']}: {state}, {count} worker{'s' * (count != 1)}{gpus}"


def _zygote(seen: Mapping[str, Any]) -> str:
    at = "workers are forked from it" if seen["ready"] else seen["reason"] or "not ready"
    return f"{seen['name']}: pid {seen['pid'] or '-'}, {round(seen['memory_mb'])} MB, {at}"


def _listed(seen: Mapping[str, Any]) -> str:
    missing = f", {seen['missing']} of them missing now" if seen["missing"] else ""
    left_out = f", not taken: {seen['left_out']}" if seen["left_out"] else ""
    failing = f", cannot be asked: {seen['failure']}" if seen["failure"] else ""
    plural = "s" * (seen["servers"] != 1)
    return f"{seen['source']}: {seen['servers']} server{plural}{missing}{left_out}{failing}"


def change_table(changes: Sequence[Mapping[str, Any]]) -> Table:
    """What an apply changes, and how."""
    table = Table(box=None, pad_edge=False)
    for name in ("setting", "old", "new", "effect"):
        table.add_column(name, no_wrap=name in ("setting", "effect"), overflow="fold")
    for change in changes:
        style = "red" if change["effect"].startswith("not ") else "yellow" if " of the " in change["effect"] else ""
        old, new = cell(_value(change["old"])), cell(_value(change["new"]))
        table.add_row(cell(change["setting"]), old, new, cell(change["effect"], style))
    return table


def _value(value: Any) -> str:
    """As one would write it on a command line."""
    if isinstance(value, list):
        return " ".join(map(str, value)) or "-"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else "-" if value in (None, "") else str(value)


def progress_table(snapshot: dict[str, Any]) -> Table:
    """The start of a cluster: state, how long, what it is at."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, i in snapshot["instances"].items():
        for_s = i.get("state_for_s")
        table.add_row(
            cell(name), cell(i["state"], STYLES.get(i["state"], "")), duration(for_s),
            cell(i["reason"] or i.get("phase") or "", "dim"),
        )
    return table


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def ago(moment: float | None) -> str:
    return "-" if not moment else f"{duration(max(0.0, time.time() - moment))} ago"


def plain_table(*columns: str) -> Table:
    """A table without a frame; columns that begin with > are flush right."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(cell(column.removeprefix(">")), justify="right" if column[:1] == ">" else "left")
    return table
