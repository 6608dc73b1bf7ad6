"""Scorecards on disk: ``reliability.json`` has every figure, ``reliability.md`` the tables between two markers."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from chaos import score

BEGIN, END = "<!-- scorecards: written by make chaos -->", "<!-- end of scorecards -->"


def machine() -> str:
    return f"{os.cpu_count()} cores, {platform.python_implementation()} {platform.python_version()}"


def write(folder: Path, scenario: str, result: dict[str, Any]) -> None:
    """Puts this result in place of the scenario's last one. Raises ValueError where the page has no markers."""
    data_file, page = folder / "reliability.json", folder / "reliability.md"
    results: dict[str, Any] = json.loads(data_file.read_text()) if data_file.exists() else {}
    results[scenario] = result
    text = page.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no markers to write between")
    data_file.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    page.write_text(f"{before}{BEGIN}\n\n{scorecards(results)}\n{END}{after}")


def scorecards(results: dict[str, Any]) -> str:
    """All of them, each with what was run and what it means."""
    return "\n".join(_section(name, result) for name, result in sorted(results.items()))


def _section(name: str, result: dict[str, Any]) -> str:
    setting = result["setting"]
    about = setting["about"][0].upper() + setting["about"][1:]
    pace = f"{setting['count']} {'time' if setting['count'] == 1 else 'times'}"
    pace += f", one every {setting['every']:g} s" if setting["every"] else ""
    how = (
        f"{about} ({pace}): {setting['instances']} {setting['engine']} workers, {setting['streams']} streams and "
        f"{setting['plain']} plain requests at a time, seed {setting['seed']}, {setting['seconds']:.0f} s "
        f"({setting['machine']})."
    )
    verdict = "Passed." if result["passed"] else "**Not passed.**"
    pause = result["longest_pause_s"]
    felt = f" Longest pause in a stream: median {pause['p50']:.2f} s, most {pause['max']:.2f} s." if pause else ""
    lines = [f"### {name}", "", how, "", score.table(result), "", f"{verdict}{felt}", ""]
    remarks = score.remarks(result)
    return "\n".join([*lines, *([*(f"- {line}" for line in remarks.splitlines()), ""] if remarks else [])])
