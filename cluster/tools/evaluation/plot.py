"""The picture of an evaluation. Needs matplotlib, which the extra `plot` brings."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.tools.bench.plot import blank


def draw(result: Mapping[str, Any], file: Path) -> None:
    """A panel a metric, a bar a model with its interval; the suffix of ``file`` says the format.

    Raises UsageError where matplotlib is missing, OSError where the file cannot be written, ValueError for a format
    that it does not know."""
    models, metrics = result["models"], result["settings"]["metrics"]
    figure = blank(1.5 + 1.2 * len(models) + 2.0 * len(metrics), 4)
    for place, metric in enumerate(metrics):
        axis = figure.add_subplot(1, len(metrics), place + 1)
        for number, found in enumerate(models.values()):
            if (figures := found["metrics"][metric]) is not None:
                _bar(axis, number, figures)
        names = [model[-24:] for model in models]
        axis.set_xticks(range(len(models)), names, rotation=30, ha="right", parse_math=False)
        axis.set_title(metric)
        axis.set_ylim(bottom=0)
        axis.grid(axis="y", alpha=0.3)
    figure.suptitle(f"{result['rows']} rows, intervals of 95 %")
    figure.savefig(file, dpi=110)


def _bar(axis: Any, number: int, figures: Mapping[str, float]) -> None:
    score = figures["score"]
    spread = [[max(0.0, score - figures["low"])], [max(0.0, figures["high"] - score)]]
    axis.bar(number, score, yerr=spread, capsize=4, color=f"C{number % 10}")
    axis.annotate(f"{score:.3g}", (number, score), textcoords="offset points", xytext=(4, 4), fontsize=8)
