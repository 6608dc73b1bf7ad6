"""What an evaluation came to, as JSON. Nothing in it depends on when or how often it was run. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from cluster.tools.evaluation import metrics, statistics
from cluster.tools.evaluation.metrics import Corpus, TextComparison
from cluster.tools.evaluation.rows import Answer, EvalRow

FORMAT = "clusterctl eval 1"


@dataclass(frozen=True, slots=True)
class Measure:
    """``names``: of metrics; the others as `metrics.scorer` and `statistics` take them."""

    names: Sequence[str]
    reading: TextComparison = field(default_factory=TextComparison)
    pattern: str | None = None
    tokenize: str = "13a"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ModelResult:
    """Of one ``model``: its ``answers`` and, by metric, their ``scores``, both by row; None where there is none.
    ``unreadable``: verdicts of the judge that could not be told."""

    model: str
    answers: Sequence[Answer]
    scores: Mapping[str, Sequence[float | None]]
    corpus: Corpus | None = None
    unreadable: int = 0


def model_result(
    model: str, rows: Sequence[EvalRow], answers: Sequence[Answer], measure: Measure,
    verdicts: Sequence[int | None] = (),
) -> ModelResult:
    """``verdicts``: of a judge, one for each row that has an answer. Raises UsageError for a library that is
    missing."""
    scores: dict[str, list[float | None]] = {}
    for name in measure.names:
        if name == "judge":
            left = iter(verdicts)
            scores[name] = [None if answer.text is None else next(left) for answer in answers]
            continue
        score = metrics.scorer(name, measure.reading, measure.pattern, measure.tokenize)
        scores[name] = [None if a.text is None else score(row, a.text) for row, a in zip(rows, answers, strict=True)]
    corpus = None
    both = [(row, a.text) for row, a in zip(rows, answers, strict=True) if a.text is not None]
    if "bleu" in measure.names and both:
        corpus = metrics.corpus_bleu([row for row, _ in both], [text for _, text in both], measure.tokenize)
    return ModelResult(model, answers, scores, corpus, sum(verdict is None for verdict in verdicts))


def to_json(
    rows: Sequence[EvalRow], results: Sequence[ModelResult], measure: Measure, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """``settings``: what else the run was."""
    return {
        "format": FORMAT, "settings": {**settings, "metrics": list(measure.names), "seed": measure.seed},
        "rows": len(rows),
        "models": {result.model: _model(result, measure) for result in results},
        "comparisons": [_comparison(results[0], other, measure) for other in results[1:]],
        "scores": [
            {"line": row.line, **{
                result.model: {name: _rounded(values[place]) for name, values in result.scores.items()}
                for result in results
            }}
            for place, row in enumerate(rows)
        ],
    }  # fmt: skip


def _model(result: ModelResult, measure: Measure) -> dict[str, Any]:
    answered = [answer for answer in result.answers if answer.text is not None]
    failed = [answer for answer in result.answers if answer.text is None]
    return {
        "answered": len(answered), "failed": len(failed), "cut": sum(answer.cut for answer in answered),
        "tokens": sum(answer.tokens for answer in answered), "unreadable_verdicts": result.unreadable,
        "first_error": failed[0].wrong if failed else None,
        "metrics": {name: _figures(result, name, measure.seed) for name in measure.names},
    }  # fmt: skip


def _figures(result: ModelResult, name: str, seed: int) -> dict[str, Any] | None:
    """None where nothing has a score."""
    values = [value for value in result.scores[name] if value is not None]
    if not values:
        return None
    if name == "bleu" and (corpus := result.corpus) is not None:
        found = {"score": corpus.score, "low": corpus.interval.low, "high": corpus.interval.high}
        return {**found, "rows": len(values), "sentences": fmean(values), "signature": corpus.signature}
    found = {"score": fmean(values)}
    interval = statistics.interval(values, seed)
    return {**found, "low": interval.low, "high": interval.high, "rows": len(values)}


def _comparison(first: ModelResult, second: ModelResult, measure: Measure) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in measure.names:
        pair = statistics.paired(first.scores[name], second.scores[name], measure.seed)
        found[name] = pair and {
            "rows": pair.rows, "difference": pair.difference, "low": pair.interval.low, "high": pair.interval.high,
            "better": pair.better, "same": pair.same, "worse": pair.worse, "p": pair.p, "verdict": pair.verdict,
        }  # fmt: skip
    return {"first": first.model, "second": second.model, "metrics": found}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def most_different(results: Sequence[ModelResult], name: str, count: int) -> list[int]:
    """Places of the rows to look at: those in which models differ most by that metric or, of one model, the worst. Rows
    without any score last; then those that come first."""

    def key(place: int) -> tuple[bool, float, int]:
        found = [value for result in results if (value := result.scores[name][place]) is not None]
        if not found:
            return True, 0.0, place
        return False, found[0] if len(results) == 1 else min(found) - max(found), place

    return sorted(range(len(results[0].answers)), key=key)[:count]
