"""What `eval` shows: scores, what each model is beside the first, and rows side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from cluster.cli.render import cell, plain_table
from cluster.tools.evaluation.result import ModelResult
from cluster.tools.evaluation.rows import EvalRow

_VERDICTS = {"better": "green", "worse": "red"}

#: Characters of a text that is shown of a row.
_LONGEST = 600


def show(screen: Console, result: Mapping[str, Any]) -> None:
    """A result as it stands in its file."""
    screen.print(_scores(result))
    if result["comparisons"]:
        screen.print()
        screen.print(_comparisons(result["comparisons"]))
    for model, found in result["models"].items():
        if found["failed"]:
            words = f"{model}: {found['failed']} requests failed, and have no score; the same command asks them again"
            screen.print(cell(f"{words} ({found['first_error']})", "red"))
        if found["cut"]:
            screen.print(cell(f"{model}: {found['cut']} answers were cut off at --max-tokens", "yellow"))
        if found["unreadable_verdicts"]:
            words = f"{model}: {found['unreadable_verdicts']} verdicts of the judge have no score in them"
            screen.print(cell(words, "yellow"))


def _scores(result: Mapping[str, Any]) -> Table:
    metrics = result["settings"]["metrics"]
    columns = [column for metric in metrics for column in (f">{metric}", "95 %")]
    table = plain_table("model", *columns, ">answered", ">failed", ">tokens")
    for model, found in result["models"].items():
        cells = []
        for metric in metrics:
            figures = found["metrics"][metric]
            cells += [cell(None), cell("")] if figures is None else [
                cell(_number(figures["score"])), cell(_range(figures), "dim"),
            ]  # fmt: skip
        table.add_row(
            cell(model), *cells, cell(found["answered"]), cell(found["failed"], "red" if found["failed"] else ""),
            cell(found["tokens"]),
        )  # fmt: skip
    return table


def _comparisons(comparisons: Sequence[Mapping[str, Any]]) -> Table:
    table = plain_table("beside", "", "metric", ">difference", "95 %", ">better", ">same", ">worse", ">p", "")
    for comparison in comparisons:
        for metric, pair in comparison["metrics"].items():
            if pair is None:
                continue
            name = f"{metric}, by sentence" if metric == "bleu" else metric
            verdict = pair["verdict"] or "no difference to be told"
            table.add_row(
                cell(comparison["first"]), cell(comparison["second"]), name, f"{pair['difference']:+.4f}",
                cell(_range(pair, "+"), "dim"), str(pair["better"]), str(pair["same"]), str(pair["worse"]),
                f"{pair['p']:.3f}" if pair["p"] >= 0.001 else "<0.001",
                cell(verdict, _VERDICTS.get(pair["verdict"], "dim")),
            )  # fmt: skip
    return table


def show_row(screen: Console, row: EvalRow, results: Sequence[ModelResult], place: int) -> None:
    """A row, its references, and what each model answered."""
    screen.print()
    screen.print(cell(f"line {row.line}", "bold"))
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_row(cell("asked", "dim"), "", _text(row.question))
    for reference in row.references[:3]:
        table.add_row(cell("right", "dim"), "", _text(reference))
    for result in results:
        scores = ((name, values[place]) for name, values in result.scores.items())
        shown = " ".join(f"{name} {'-' if value is None else _number(value)}" for name, value in scores)
        answer = result.answers[place]
        said = answer.wrong if answer.text is None else answer.text
        table.add_row(cell(result.model), cell(shown, "dim"), _text(said))
    screen.print(table)


def _text(text: str) -> Any:
    return cell(text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …", lines=True)


def _number(value: float) -> str:
    return f"{value:.4f}" if value < 10 else f"{value:.2f}"


def _range(figures: Mapping[str, float], sign: str = "") -> str:
    return f"{figures['low']:{sign}.4f} to {figures['high']:{sign}.4f}"
