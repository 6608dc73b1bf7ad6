"""What came of a training: a report in JSON and, where matplotlib is installed, the curve of its loss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from worker.training.loop import TrainingState

REPORT, PLOT = "report.json", "loss.png"


def figures(state: TrainingState) -> dict[str, Any]:
    """Loss: the means over the first and the last tenth of the steps. Rates are of the whole time that steps took."""
    losses = [loss for _, loss, _ in state.curve]
    tenth, seconds = max(1, len(losses) // 10), max(state.seconds, 1e-9)
    found: dict[str, Any] = {
        "loss_from": _mean(losses[:tenth]), "loss_to": _mean(losses[-tenth:]), "steps": state.step,
        "seconds": round(state.seconds, 3), "samples_per_second": round(state.samples / seconds, 3),
        "tokens_per_second": round(state.tokens / seconds, 1),
    }  # fmt: skip
    if state.validation:
        found |= {"validation_from": state.validation[0][1], "validation_to": state.validation[-1][1]}
    return found


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 5)


def write(folder: Path, about: dict[str, Any], state: TrainingState) -> list[str]:
    """The files that it has written into ``folder``. Raises OSError."""
    curves = {"curve": state.curve, "validation": state.validation}
    (folder / REPORT).write_text(json.dumps({**about, **figures(state), **curves}, indent=1, ensure_ascii=False))
    if find_spec("matplotlib") is None:
        return [REPORT]
    _plot(folder / PLOT, state, str(about.get("name", "")))
    return [REPORT, PLOT]


def _plot(path: Path, state: TrainingState, name: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    axes.set_title(name, parse_math=False)
    axes.plot([step for step, _, _ in state.curve], [loss for _, loss, _ in state.curve], label="training")
    if state.validation:
        axes.plot(*zip(*state.validation, strict=True), "o-", label="validation")
    axes.legend()
    FigureCanvasAgg(figure)
    figure.savefig(path)
