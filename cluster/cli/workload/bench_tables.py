"""What `bench` shows: its result, and two of them side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.cli.render import cell, plain_table
from cluster.tools.bench import compare
from cluster.tools.bench.samples import LATENCIES
from cluster.tools.bench.stats import FIGURES

_VERDICTS = {"better": "green", "worse": "red"}


def show(screen: Console, result: dict[str, Any]) -> None:
    """A result as it stands in its file."""
    models = result["models"]
    _show_one(screen, "all models" if len(models) > 1 else next(iter(models), "nothing"), result["total"])
    if len(models) > 1:
        screen.print()
        screen.print(_models_table(models))
    for kind, detail in result["error_examples"].items():
        screen.print(cell(f"{result['total']['errors'][kind]} x {kind}: {detail}", "red"))
    for note in result["notes"]:
        screen.print(cell(note, "yellow"))


def _show_one(screen: Console, name: str, figures: dict[str, Any]) -> None:
    counts = f"{figures['completed']} answered, {figures['failed']} failed"
    if figures["unfinished"]:
        counts += f", {figures['unfinished']} not finished"
    screen.print(cell(f"{name}: {counts}, in {figures['duration_s']:.2f} s", "bold"))
    screen.print(cell(
        f"{figures['requests_per_s']:.2f} answers a second, {figures['output_tokens_per_s']:.1f} output tokens a second"
        f" ({figures['total_tokens_per_s']:.1f} with prompts); {figures['prompt_tokens']} tokens in, "
        f"{figures['output_tokens']} out"
    ))  # fmt: skip
    if figures["completed"]:
        screen.print(_latency_table(figures))


def _latency_table(figures: dict[str, Any]) -> Table:
    table = plain_table("", *(f">{figure}" for figure in FIGURES))
    for key, name in LATENCIES.items():
        if found := figures.get(key):
            table.add_row(f"{name}, ms", *(_number(found[figure]) for figure in FIGURES))
    if found := figures["request_output_tokens_per_s"]:
        table.add_row("output tokens a second of one request", *(_number(found[figure]) for figure in FIGURES))
    return table


def _models_table(models: dict[str, Any]) -> Table:
    table = plain_table(
        "model", ">answered", ">failed", ">answers/s", ">output tokens/s", ">first token ms, median", ">p99",
        ">per token ms, median", ">p99", ">end to end ms, median", ">p99",
    )
    for name, figures in models.items():
        cells = [
            _number(summary[figure]) if (summary := figures.get(key)) else "-"
            for key in ("ttft_ms", "tpot_ms", "e2el_ms") for figure in ("median", "p99")
        ]  # fmt: skip
        table.add_row(
            cell(name), str(figures["completed"]), str(figures["failed"]),
            f"{figures['requests_per_s']:.2f}", f"{figures['output_tokens_per_s']:.1f}", *cells,
        )
    return table


def show_comparison(screen: Console, names: Sequence[str], first: dict[str, Any], second: dict[str, Any]) -> None:
    """``names`` of the two files."""
    for difference in compare.differences(first, second):
        screen.print(cell(f"they differ in {difference}", "yellow"))
    for group, rows in compare.groups(first, second):
        table = plain_table(group, *(f">{name}" for name in names), ">ratio", "")
        for row in rows:
            table.add_row(
                row.what, _number(row.first), _number(row.second), "-" if row.ratio is None else f"{row.ratio:.3f}",
                cell(row.verdict, _VERDICTS.get(row.verdict, "")),
            )
        screen.print(table)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.2f}"
