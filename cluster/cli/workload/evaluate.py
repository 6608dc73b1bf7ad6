"""`eval`: how good models' answers are."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cluster.cli.arguments import make_folder
from cluster.cli.common import Finite, asking_client, url_option
from cluster.cli.render import console, say
from cluster.cli.workload.asking import AskedServer, progress
from cluster.cli.workload.models import chosen
from cluster.cli.workload.versions import served
from cluster.client import ClusterError
from cluster.tools.batch.lenient import LenientSender
from cluster.tools.batch.progress import BatchProgress
from cluster.tools.evaluation import asking, judge, metrics, thresholds
from cluster.tools.evaluation.asking import Questions
from cluster.tools.evaluation.metrics import METRICS, TextComparison
from cluster.tools.evaluation.result import Measure, ModelResult, model_result, most_different, to_json
from cluster.tools.evaluation.rows import Answer, EvalRow, read_rows
from config import bounded
from config.errors import UsageError
from config.values import patterns

_PATH, _POSITIVE = click.Path(path_type=Path), click.IntRange(1)

#: Bytes of the data, and models.
_MOST_BYTES, _MOST_MODELS = 256 << 20, 32


@click.command("eval")
@click.option("--data", required=True, type=_PATH, help="JSON lines: questions with their right answers.")
@click.option("--models", required=True, metavar="A,B,…", help="Models, adapters, NAME@VERSION; to the first "
             "the others are compared.")
@click.option("--metric", "names", multiple=True, type=click.Choice(list(METRICS)), help="Default exact.")
@click.option("--out", type=_PATH, help="Folder for the answers; default eval-DATA. A killed run goes on there.")
@click.option("--json", "json_file", type=_PATH, help="Write the result, with every row's scores.")
@click.option("--plot", type=_PATH, help="Draw it, as .png, .svg or .pdf.")
@click.option("--show", type=click.IntRange(0), default=0, help="So many rows side by side, the most telling.")
@click.option("--min-score", "least", multiple=True, metavar="[[MODEL:]METRIC=]N", help="Less is exit code 1.")
@click.option("--pattern", help="For regex, where a row has none of its own.")
@click.option("--ignore-case", is_flag=True, help="For exact and contains.")
@click.option("--verbatim", is_flag=True, help="For exact and contains: white space counts.")
@click.option("--bleu-tokenize", type=click.Choice(["13a", "zh", "char", "intl", "none"]), default="13a")
@click.option("--judge-model", help="Who judges.")
@click.option("--judge-url", help="Where, if not here: the base URL of any OpenAI-compatible server.")
@click.option("--judge-key-file", type=_PATH, help="The judge's key.")
@click.option("--judge-key-env", metavar="NAME", help="The variable that has the judge's key.")
@click.option("--limit", type=_POSITIVE, help="Only the first rows.")
@click.option("--max-tokens", type=_POSITIVE, default=512, show_default=True, help="Longest answer.")
@click.option("--temperature", type=Finite(0), default=0.0, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True, help="Of answers and of intervals.")
@click.option("--completions", is_flag=True, help="Texts to go on with, not questions in a chat.")
@click.option("--concurrency", "-c", default=16, show_default=True, type=click.IntRange(1, 4096))
@click.option("--retries", default=5, show_default=True, type=click.IntRange(0))
@click.option("--timeout", default=600.0, show_default=True, type=Finite(0, min_open=True), help="Seconds.")
@click.option("--urgent", is_flag=True, help="Wait in the queue as others do, not behind them.")
@click.option("--overwrite", is_flag=True, help="Begin anew, whatever the folder holds.")
@url_option
def eval_command(**options: Any) -> int:
    """Ask models what has a known answer, and score what they say.

    A row is {"messages": […]} that end in the right answer, {"question": …, "answer": …}, or ShareGPT's. Started again,
    it asks what is missing. Exit code 1 if a request failed or a score is below --min-score."""
    names = tuple(dict.fromkeys(options["names"])) or ("exact",)
    models = list(dict.fromkeys(name.strip() for name in options["models"].split(",") if name.strip()))
    rows, measure, least = _prepared(options, names, models)
    folder = options["out"] or Path(f"eval-{options['data'].stem}")
    make_folder(folder)
    try:
        found, failed = _evaluate(options, rows, models, measure, folder)
    except (ClusterError, UsageError) as error:
        raise _with_hint(error, folder) from None
    except KeyboardInterrupt:
        say(f"stopped; what was answered is in {folder}, the same command goes on from there", err=True)
        return 130
    result = to_json(rows, found, measure, _settings(options))
    _show(options, rows, found, result)
    missed = list(thresholds.missed(least, result["models"]))
    for words in missed:
        say(f"below --min-score: {words}", err=True)
    return 1 if failed or missed else 0


def _prepared(
    options: Mapping[str, Any], names: Sequence[str], models: Sequence[str]
) -> tuple[list[EvalRow], Measure, list[thresholds.Threshold]]:
    """All that can be wrong before anything is asked. Raises UsageError."""
    if not 1 <= len(models) <= _MOST_MODELS:
        raise UsageError(f"--models: 1 to {_MOST_MODELS} are needed", exit_code=2)
    if ("judge" in names) != (options["judge_model"] is not None):
        raise UsageError("--metric judge and --judge-model NAME go together", exit_code=2)
    least = [thresholds.parse(text, names, models) for text in options["least"]]
    rows = _read(options["data"])[: options["limit"]]
    pattern, reading = options["pattern"], TextComparison(options["ignore_case"], options["verbatim"])
    if pattern is not None:
        try:
            patterns.bounded(pattern)
        except ValueError as error:
            raise UsageError(f"--pattern: {error}", exit_code=2) from None
    for name in names:
        metrics.check(name, rows, pattern)
        if name != "judge":
            metrics.scorer(name, reading, pattern, options["bleu_tokenize"])  # is what it needs installed?
    if options["completions"] and any(len(row.messages) > 1 for row in rows):
        raise UsageError("--completions: a row is a conversation, which only a chat can go on with", exit_code=2)
    return rows, Measure(names, reading, pattern, options["bleu_tokenize"], options["seed"]), least


def _read(data: Path) -> list[EvalRow]:
    text = bounded.read_given(data, _MOST_BYTES)
    try:
        return read_rows(text.encode().split(b"\n"))
    except UsageError as error:
        raise UsageError(f"{data}: {error}", exit_code=2) from None


def _with_hint(error: ClusterError | UsageError, folder: Path) -> Exception:
    if isinstance(error, ClusterError):
        return ClusterError(f"{error}; what was answered is in {folder}", error.status)
    return error


def _evaluate(
    options: Mapping[str, Any], rows: Sequence[EvalRow], models: Sequence[str], measure: Measure, folder: Path
) -> tuple[list[ModelResult], int]:
    """Of each model, and how many requests failed."""
    sampling = {name: options[name] for name in ("temperature", "seed", "max_tokens")}
    questions = Questions(rows, sampling, options["completions"])
    results, failed = [], 0
    with contextlib.ExitStack() as stack:
        cluster = stack.enter_context(asking_client(options["url"]))
        stack.enter_context(served(cluster, options["url"], models, f"eval {folder.absolute()}"))
        for model in models:
            chosen(cluster, model)
        for model in models:
            asks = questions.asks(model)
            answers, wrong = _asked(options, asking.file_of(folder, model), asks, model)
            verdicts, wrong_verdicts = _judged(options, rows, answers, model, folder)
            failed += wrong + wrong_verdicts
            results.append(model_result(model, rows, answers, measure, verdicts))
    return results, failed


def _judged(
    options: Mapping[str, Any], rows: Sequence[EvalRow], answers: Sequence[Answer], model: str, folder: Path
) -> tuple[list[int | None], int]:
    name = options["judge_model"]
    if name is None:
        return [], 0
    file = asking.file_of(folder, model, name)
    asks = asking.judge_asks(rows, answers, name, options["seed"])
    # What it judged before may be other answers: those of rows that failed then, and not now.
    verdicts, wrong = _asked(options, file, asks, f"judge of {model}", is_judge=True, anew=not asking.fits(file, asks))
    return [None if verdict.text is None else judge.score(verdict.text) for verdict in verdicts], wrong


def _asked(
    options: Mapping[str, Any], file: Path, asks: Sequence[Any], what: str, is_judge: bool = False, anew: bool = False
) -> tuple[list[Answer], int]:
    """The answers in ``file``, which is complete then, and how many of them are failures."""
    elsewhere = options["judge_url"] if is_judge else None
    sender = AskedServer(
        elsewhere or options["url"], elsewhere is None,
        options["judge_key_file"] if is_judge else None, options["judge_key_env"] if is_judge else None,
        options["concurrency"], options["retries"], options["timeout"], not options["urgent"],
    ).sender()  # fmt: skip

    async def run() -> None:
        async with sender:
            work = LenientSender(sender) if is_judge else sender
            await asking.ask(out, asks, work, options["concurrency"], report)

    with contextlib.closing(asking.output(file, options["overwrite"] or anew)) as out:
        report = BatchProgress(out)
        with progress(report, len(asks), shown=True, name=what):
            try:
                asyncio.run(run())
            except OSError as error:
                raise UsageError(f"{out.name}: {error.strerror or error}") from None
    return list(asking.answers(file)), report.failed


def _settings(options: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("limit", "max_tokens", "temperature", "completions", "pattern", "ignore_case", "verbatim", "judge_model")
    digest = hashlib.sha256(options["data"].read_bytes()).hexdigest()
    return {"data": options["data"].name, "sha256": digest, **{name: options[name] for name in kept}}


def _show(
    options: Mapping[str, Any], rows: Sequence[EvalRow], found: Sequence[ModelResult], result: Mapping[str, Any]
) -> None:
    from cluster.cli.workload import evaluate_tables

    screen = console()
    evaluate_tables.show(screen, result)
    first = result["settings"]["metrics"][0]
    for place in most_different(found, first, options["show"]):
        evaluate_tables.show_row(screen, rows[place], found, place)
    try:
        if (file := options["json_file"]) is not None:
            file.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        if (file := options["plot"]) is not None:
            from cluster.tools.evaluation import plot

            plot.draw(result, file)
    except OSError as error:
        raise UsageError(f"{error.filename or file}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"--plot {file}: {error}", exit_code=2) from None
