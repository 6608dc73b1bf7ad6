"""`doctor`: what keeps a cluster from running here, and what `up` would do. Starts nothing and changes nothing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from cluster.cli.common import Finite
from cluster.cli.lifecycle.up import given_flags, up_command
from cluster.cli.render import cell, console, say, say_json
from cluster.tools.doctor import engines, gather, machine, models, ray, setup
from cluster.tools.doctor.facts import MachineFacts
from cluster.tools.doctor.finding import Finding

_STYLES = {"ok": "green", "warning": "yellow", "problem": "bold red"}

#: Everything that `up` can be told changes what it would do.
_OF_UP = [param for param in up_command.params if param.name != "detached"]


@click.command("doctor", params=list(_OF_UP))
@click.option("--import-timeout", type=Finite(0), default=120.0, show_default=True, metavar="SECONDS",
              help="How long importing the engine may take; 0: do not try.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def doctor_command(
    config: Path | None, engine_args: tuple[str, ...], import_timeout: float, as_json: bool, **options: Any
) -> int:  # fmt: skip
    """Check this machine and say what `up` with the same flags would do, and why.

    Starts nothing and changes nothing. Exit code 1 if there is a problem."""
    if import_timeout and sys.stderr.isatty():
        say("looking, and importing the engine: this may take a minute …", err=True)
    facts = gather.look(given_flags(options, engine_args), config, import_timeout)
    found = judge(facts)
    problems = sum(finding.level == "problem" for finding in found)
    if as_json:
        say_json({"ok": not problems, "findings": [f.to_json() for f in found]})
    else:
        console().print(table(found))
        warnings = sum(finding.level == "warning" for finding in found)
        say(f"{problems} problem{'s' * (problems != 1)}, {warnings} warning{'s' * (warnings != 1)}")
    return 1 if problems else 0


def judge(facts: MachineFacts) -> list[Finding]:
    return [
        *machine.findings(facts), *engines.findings(facts), *ray.findings(facts), *models.findings(facts),
        *setup.findings(facts),
    ]  # fmt: skip


def table(found: list[Finding]) -> Table:
    """One row a finding, its remedy below it."""
    shown = Table(box=None, pad_edge=False, show_header=False)
    shown.add_column("check", no_wrap=True)
    shown.add_column("level", no_wrap=True)
    shown.add_column("text", overflow="fold")
    for finding in found:
        text = cell(finding.text, lines=True)
        if finding.remedy:
            text.append("\n→ ").append_text(cell(finding.remedy, "dim" if finding.level == "ok" else ""))
        shown.add_row(finding.check, cell(finding.level, _STYLES[finding.level]), text)
    return shown
