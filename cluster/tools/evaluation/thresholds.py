"""Scores that have to be reached, as a command line names them: ``0.7``, ``rouge=0.4``, ``medical:rouge=0.4``. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.tools.evaluation.metrics import METRICS
from config.errors import UsageError


@dataclass(frozen=True, slots=True)
class Threshold:
    """``model``, ``metric``: None for all."""

    least: float
    metric: str | None = None
    model: str | None = None


def parse(text: str, metrics: Sequence[str], models: Sequence[str]) -> Threshold:
    """Raises UsageError."""
    name, given, number = text.rpartition("=")
    model, _, metric = name.rpartition(":")
    try:
        least = float(number)
    except ValueError:
        least = math.nan
    if not math.isfinite(least) or (given and not metric):
        raise UsageError(f"--min-score {text}: such as 0.7, rouge=0.4 or MODEL:rouge=0.4", exit_code=2)
    if metric and metric not in metrics:
        raise UsageError(f"--min-score {text}: {metric!r} is not measured; --metric {', '.join(metrics)}", exit_code=2)
    if model and model not in models:
        raise UsageError(f"--min-score {text}: {model!r} is not asked; --models {','.join(models)}", exit_code=2)
    scales = {METRICS[one] for one in ([metric] if metric else metrics)}
    if len(scales) > 1:
        raise UsageError(f"--min-score {text}: which metric? They do not go to the same number", exit_code=2)
    if least > max(scales):
        raise UsageError(f"--min-score {text}: that metric goes to {max(scales):g}", exit_code=2)
    return Threshold(least, metric or None, model or None)


def missed(thresholds: Sequence[Threshold], models: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What is below, in words; ``models``: of a result's JSON. A model without any score has not reached it."""
    for threshold in thresholds:
        for model, found in models.items():
            for metric, figures in found["metrics"].items():
                if threshold.model in (None, model) and threshold.metric in (None, metric):
                    score = None if figures is None else figures["score"]
                    if score is None or score < threshold.least:
                        shown = "no score" if score is None else f"{score:.4g}"
                        yield f"{model}: {metric} {shown}, less than {threshold.least:g}"
