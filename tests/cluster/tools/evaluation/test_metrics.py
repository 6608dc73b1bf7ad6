from __future__ import annotations

import builtins
import string
import time
from typing import Any

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from rouge_score.tokenize import tokenize

from cluster.tools.evaluation import metrics
from cluster.tools.evaluation.metrics import TextComparison
from cluster.tools.evaluation.rows import EvalRow
from cluster.tools.evaluation.words import words
from config.errors import UsageError

ASCII = st.text(string.printable, max_size=60)


def _row(*references: str, pattern: str | None = None) -> EvalRow:
    return EvalRow(1, ({"role": "user", "content": "q"},), references, pattern)


def _score(name: str, row: EvalRow, answer: str, pattern: str | None = None, **how: bool) -> float:
    return metrics.scorer(name, TextComparison(**how), pattern, "13a")(row, answer)


@pytest.mark.parametrize(
    ("answer", "how", "exact", "contains"),
    [
        ("the answer", {}, 1, 1), (" the\n answer ", {}, 1, 1), ("the\u00a0answer", {}, 1, 1), ("The Answer", {}, 0, 0),
        ("The Answer", {"ignore_case": True}, 1, 1), ("it is the answer.", {}, 0, 1),
        ("the  answer", {"verbatim": True}, 0, 0), ("the answer", {"verbatim": True}, 1, 1), ("", {}, 0, 0),
        ("second", {}, 1, 1),
    ],
)  # fmt: skip
def test_exact_and_contains(answer: str, how: dict[str, bool], exact: int, contains: int) -> None:
    row = _row("the answer", "second")
    assert (_score("exact", row, answer, **how), _score("contains", row, answer, **how)) == (exact, contains)


def test_regex_is_the_rows_or_that_of_all() -> None:
    assert _score("regex", _row(pattern=r"^\d+$"), "42") == 1
    assert _score("regex", _row(pattern=r"^\d+$"), "42 or so", pattern="so") == 0
    assert _score("regex", _row(), "42 or so", pattern="so$") == 1


@pytest.mark.measured
def test_no_pattern_takes_long() -> None:
    began = time.process_time()
    assert _score("regex", _row(pattern=r"(a*)*(a|a)*b$"), "a" * 20_000) == 0
    assert time.process_time() - began < 1.0


@given(st.lists(ASCII, min_size=1, max_size=3), ASCII)
def test_rouge_is_the_librarys(references: list[str], answer: str) -> None:
    theirs = RougeScorer(["rougeL"]).score_multi(references, answer)["rougeL"].fmeasure
    assert _score("rouge", _row(*references), answer) == theirs


@given(ASCII)
def test_words_are_the_librarys_where_it_knows_the_letters(text: str) -> None:
    assert words(text) == tokenize(text, None)


def test_words_of_other_scripts() -> None:
    assert words("Café 价格是100元, ok_x") == ["café", "价", "格", "是", "100", "元", "ok", "x"]
    assert _score("rouge", _row("今天天气很好"), "今天天气不好") == pytest.approx(5 / 6)


@given(st.lists(st.tuples(ASCII, st.lists(ASCII.filter(str.strip), min_size=1, max_size=1)), min_size=1, max_size=5))
def test_bleu_is_the_librarys(texts: list[tuple[str, list[str]]]) -> None:
    rows = [_row(*references) for _, references in texts]
    answers = [answer for answer, _ in texts]
    streams = [[references[0] for _, references in texts]]
    found = metrics.corpus_bleu(rows, answers, "13a")
    assert found.score == sacrebleu.corpus_bleu(answers, streams, force=True).score
    for row, answer in zip(rows, answers, strict=True):
        assert _score("bleu", row, answer) == sacrebleu.sentence_bleu(answer, list(row.references)).score


def test_bleu_takes_rows_with_more_references_than_others() -> None:
    rows = [_row("a cat sat on the mat", "the cat sat on a mat"), _row("it is raining hard today")]
    found = metrics.corpus_bleu(rows, ["the cat sat on a mat", "it is raining hard today"], "13a")
    assert found.score == pytest.approx(100)
    assert "nrefs:var" in found.signature or "nrefs:2" in found.signature


def test_rows_lack_what_a_metric_needs() -> None:
    rows = [_row("a"), EvalRow(7, ({"role": "user", "content": "q"},))]
    for name in ("exact", "contains", "rouge", "bleu"):
        with pytest.raises(UsageError, match=f"--metric {name}: line 7: no reference"):
            metrics.check(name, rows, None)
    with pytest.raises(UsageError, match="line 1, 7: no pattern"):
        metrics.check("regex", rows, None)
    metrics.check("regex", rows, "x")
    metrics.check("judge", rows, None)


@pytest.mark.parametrize(("name", "module"), [("rouge", "rouge_score"), ("bleu", "sacrebleu")])
def test_without_its_library_a_metric_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    real = builtins.__import__

    def without(wanted: str, *args: Any, **kwargs: Any) -> Any:
        if wanted.startswith(module):
            raise ModuleNotFoundError(wanted)
        return real(wanted, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"pip install 'clusterctl\[eval\]'"):
        metrics.scorer(name, TextComparison(), None, "13a")
