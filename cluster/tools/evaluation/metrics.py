"""What an answer scores beside its references. Pure but for the libraries, which the extra `eval` brings.

- ``exact``: 1 where the answer is one of the references, else 0;
- ``contains``: 1 where one of them is in it;
- ``regex``: 1 where the pattern is found in it;
- ``rouge``: ROUGE-L, the F-measure of the best reference, of Google's `rouge-score`: 0 to 1;
- ``bleu``: sacreBLEU's, 0 to 100; of a model that of all its answers together (corpus BLEU), of one row sentence BLEU;
- ``judge``: what another model gives (`cluster.tools.evaluation.judge`): 1 to 10.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cluster.tools.evaluation.rows import EvalRow
from cluster.tools.evaluation.statistics import Interval
from cluster.tools.evaluation.words import words
from config.errors import UsageError
from config.values import patterns

#: By name, the best that there is.
METRICS = {"exact": 1.0, "contains": 1.0, "regex": 1.0, "rouge": 1.0, "bleu": 100.0, "judge": 10.0}

_MISSING = "{} needs {}, which is not installed: pip install 'clusterctl[eval]'"

#: Words of a text that ROUGE-L looks at: it takes the product of both in time, here a second.
_LONGEST = 2000

_BLANK = re.compile(r"\s+")

#: Of sacreBLEU's bootstrap, whose memory is 40 bytes a value drawn.
_SAMPLES, _LEAST_SAMPLES, _DRAWN = 1000, 50, 4_000_000

Scorer = Callable[[EvalRow, str], float]


@dataclass(frozen=True, slots=True)
class TextComparison:
    """How texts are compared by ``exact`` and ``contains``. ``verbatim``: to the letter; otherwise white space counts
    as one blank, and not at all around a text."""

    ignore_case: bool = False
    verbatim: bool = False

    def __call__(self, text: str) -> str:
        if not self.verbatim:
            text = _BLANK.sub(" ", text).strip()
        return text.casefold() if self.ignore_case else text


@dataclass(frozen=True, slots=True)
class Corpus:
    """BLEU of all answers together. ``signature``: what sacreBLEU wants to be cited."""

    score: float
    interval: Interval
    signature: str


def scorer(name: str, reading: TextComparison, pattern: str | None, tokenize: str) -> Scorer:
    """Of one row. ``pattern``: for rows that have none. ``tokenize``: of BLEU. Raises UsageError."""
    if name == "exact":
        return lambda row, answer: float(reading(answer) in map(reading, row.references))
    if name == "contains":
        return lambda row, answer: float(any(one in reading(answer) for one in map(reading, row.references)))
    if name == "regex":
        return lambda row, answer: float(patterns.bounded(row.pattern or pattern or "")(answer))
    if name == "rouge":
        return _rouge()
    metric = _bleu(tokenize, effective_order=True)
    return lambda row, answer: float(metric.sentence_score(answer, list(row.references)).score)


def check(name: str, rows: Sequence[EvalRow], pattern: str | None) -> None:
    """Raises UsageError where rows lack what a metric compares with."""
    if name == "judge":
        return
    if name == "regex":
        lacking = [row.line for row in rows if row.pattern is None and pattern is None]
        what = "pattern; --pattern is for all of them"
    else:
        lacking, what = [row.line for row in rows if not row.references], "reference"
    if lacking:
        shown = ", ".join(map(str, lacking[:5])) + (", …" if len(lacking) > 5 else "")
        raise UsageError(f"--metric {name}: line {shown}: no {what}", exit_code=2)


class _Words:
    """A tokenizer of `rouge_score`."""

    def tokenize(self, text: str) -> list[str]:
        return words(text)[:_LONGEST]


def _rouge() -> Scorer:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise UsageError(_MISSING.format("--metric rouge", "rouge-score")) from None
    made = RougeScorer(["rougeL"], tokenizer=_Words())

    def score(row: EvalRow, answer: str) -> float:
        return float(made.score_multi(row.references, answer)["rougeL"].fmeasure)

    return score


def _bleu(tokenize: str, **options: Any) -> Any:
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError:
        raise UsageError(_MISSING.format("--metric bleu", "sacrebleu")) from None
    return BLEU(tokenize=tokenize, force=True, **options)  # no warnings about what was asked for


def corpus_bleu(rows: Sequence[EvalRow], answers: Sequence[str], tokenize: str) -> Corpus:
    """Of ``answers``, which are not empty. A row with fewer references than another has None in their place, as
    sacreBLEU takes it. The interval is sacreBLEU's bootstrap, which has a seed of its own (SACREBLEU_SEED)."""
    most = max(len(row.references) for row in rows)
    streams = [[row.references[n] if n < len(row.references) else None for row in rows] for n in range(most)]
    metric = _bleu(tokenize)
    samples = max(_LEAST_SAMPLES, min(_SAMPLES, _DRAWN // len(rows)))
    score = metric.corpus_score(list(answers), streams, n_bootstrap=samples)
    # The seed and the number of samples are the interval's, not the score's.
    metric.n_bootstrap = metric.seed = None
    found = Interval(float(score._mean - score._ci), float(score._mean + score._ci))
    return Corpus(float(score.score), found, str(metric.get_signature()))
