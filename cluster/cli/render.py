"""How a status looks on a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

#: A status is told once a second: what is older (s) says so.
STALE_S = 5.0

#: Of the states of an instance.
STYLES = {
    "ready": "green", "starting": "yellow", "draining": "yellow", "stopping": "yellow", "backoff": "red",
    "unhealthy": "red", "drained": "yellow", "failed": "bold red", "stopped": "dim",
}  # fmt: skip


_COLUMNS = (
    ("instance", False), ("state", False), ("pid", True), ("port", True), ("gpus", False), ("weight", True),
    ("in flight", True), ("requests", True), ("errors", True), ("restarts", True), ("up", True), ("cpu %", True),
    ("MB", True), ("", False),
)  # fmt: skip

#: What is left of it on a narrow terminal.
_NARROW = {"instance", "state", "pid", "port", "in flight", "requests", "restarts", ""}


def console(stderr: bool = False) -> Console:
    """As wide as the terminal; into a file or a pipe, as wide as it takes."""
    found = Console(stderr=stderr, highlight=False)
    return found if found.is_terminal else Console(stderr=stderr, highlight=False, width=220)


def status_table(status: Mapping[str, Any], width: int) -> Table:
    """One row an instance; what is wrong with one stands in the last column. ``width`` in characters."""
    supervisor = status["supervisor"]
    pid = supervisor.get("pid")
    title = (
        f"{status['running_instances']} of {status['total_instances']} ready · {status['load_balancer_strategy']} · "
        f"supervisor {pid if pid else 'not running'} · balancer {status['load_balancer']['pid']}"
    )
    if (age := supervisor.get("age_s")) is not None and age > STALE_S:
        title += f" · as of {duration(age)} ago"
    if finishing := len(status["load_balancer"].get("draining", ())):
        title += f" ({finishing} replaced, finishing)"
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    wide = width >= 110
    for name, right in _COLUMNS:
        if wide or name in _NARROW:
            table.add_column(name, justify="right" if right else "left", no_wrap=name != "")
    for name, i in status["instances"].items():
        state = i["state"] + (" (degraded)" if i["degraded"] else "") + (" (spare)" if i.get("spare") else "")
        note = i["reason"] or i.get("phase") or ""
        if not note and i["last_exit"] and not i["last_exit"]["expected"]:
            note = f"last end: {i['last_exit']['reason']}"
        cells = (
            name, Text(state, STYLES.get(i["state"], "")), text_of(i["pid"]), text_of(i["port"]),
            ",".join(map(str, i["gpus"])) or "-", text_of(i["weight"]), text_of(i["in_flight"]),
            text_of(i["requests_total"]), text_of(i["errors_total"]), text_of(i["restarts"]), duration(i["uptime_s"]),
            text_of(i["cpu_percent"]), text_of(i["memory_mb"] and round(i["memory_mb"])), Text(note, "dim"),
        )
        shown = zip(_COLUMNS, cells, strict=True)
        table.add_row(*(cell for (column, _), cell in shown if wide or column in _NARROW))
    return table


def change_table(changes: Sequence[Mapping[str, Any]]) -> Table:
    """What an apply changes, and how."""
    table = Table(box=None, pad_edge=False)
    for name in ("setting", "old", "new", "effect"):
        table.add_column(name, no_wrap=name in ("setting", "effect"), overflow="fold")
    for change in changes:
        style = "red" if change["effect"].startswith("not ") else "yellow" if " of the " in change["effect"] else ""
        old, new = Text(_value(change["old"])), Text(_value(change["new"]))
        table.add_row(change["setting"], old, new, Text(change["effect"], style))
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
            name, Text(i["state"], STYLES.get(i["state"], "")), duration(for_s),
            Text(i["reason"] or i.get("phase") or "", "dim"),
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


def text_of(value: object) -> str:
    """A dash for what is not known."""
    return "-" if value is None else str(value)


def plain_table(*columns: str) -> Table:
    """A table without a frame; columns that begin with > are flush right."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(Text(column.removeprefix(">")), justify="right" if column[:1] == ">" else "left")
    return table


def printable(text: str) -> str:
    """A model's words must not move the cursor of the terminal they are shown on."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)
