"""`data`: files to train with."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from cluster.cli.common import Finite, asking_client, url_option
from cluster.cli.render import console, say
from cluster.cli.workload.asking import AskedServer
from cluster.cli.workload.models import chosen
from cluster.client import ClusterError
from cluster.tools.batch.files import Output
from cluster.tools.batch.lenient import LenientSender
from cluster.tools.dataset.parsing import WrittenRow
from cluster.tools.dataset.progress import Writing
from cluster.tools.dataset.prompts import DataPlan
from cluster.tools.dataset.run import DataRun
from cluster.tools.evaluation.rows import read_rows
from config import bounded
from config.errors import UsageError

_PATH, _POSITIVE = click.Path(path_type=Path), click.IntRange(1)

#: Rows of a data set; bytes of a file of examples; characters of what is said on the command line.
_MOST_ROWS, _MOST_BYTES, _LONGEST = 100_000, 16 << 20, 4_000


@click.group("data")
def data_command() -> None:
    """Data to train adapters with."""


@data_command.command("generate")
@click.option("--domain", required=True, help="What the data is about, in a few words or sentences.")
@click.option("--count", required=True, type=click.IntRange(1, _MOST_ROWS), help="Rows that are wanted.")
@click.option("--out", required=True, type=_PATH, help="JSON lines of messages; beside it FILE.answers.")
@click.option("--model", "-m", help="Who writes. Default the cluster's base model; needed with --url.")
@click.option("--key-file", type=_PATH, help="The server's key.")
@click.option("--key-env", metavar="NAME", help="The variable that has the server's key.")
@click.option("--budget", type=_POSITIVE, metavar="TOKENS", help="Of questions and answers together, at most.")
@click.option("--seed-file", type=_PATH, help="Rows as they should be, JSON lines as for training.")
@click.option("--language", default="", help="Of the rows, such as Chinese.")
@click.option("--system", default="", help="A system message that each row begins with.")
@click.option("--temperature", type=Finite(0), default=0.9, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--concurrency", "-c", default=8, show_default=True, type=click.IntRange(1, 256))
@click.option("--retries", default=5, show_default=True, type=click.IntRange(0))
@click.option("--timeout", default=600.0, show_default=True, type=Finite(0, min_open=True), help="Seconds.")
@click.option("--overwrite", is_flag=True, help="Begin anew, whatever the file holds.")
@url_option
def generate(**options: Any) -> int:
    """Have a model write questions and answers of a domain, for `lora train`.

    Any OpenAI-compatible server will do (--url). Rows that repeat another are left out. Started again after a break, it
    asks what is missing, with a higher --count or --budget what is more. Exit code 1 if there are fewer rows than
    wanted."""
    plan = _plan(options)
    out: Path = options["out"]
    writing = Writing(options["count"], options["budget"])
    asked = AskedServer(
        options["url"], options["url"] is None, options["key_file"], options["key_env"], options["concurrency"],
        options["retries"], options["timeout"],
    )  # fmt: skip
    sender = asked.sender()
    answers = out.with_name(f"{out.name}.answers")
    if not options["overwrite"] and _size(out) and not _size(answers):
        raise UsageError(f"{out} has rows that were not written here: name another file, or --overwrite it")
    with contextlib.ExitStack() as stack:
        rows, journal = (
            stack.enter_context(contextlib.closing(Output(path, options["overwrite"])))
            for path in (out, answers)
        )
        look = stack.enter_context(_progress(writing))

        async def run() -> None:
            data = DataRun(plan, writing, journal, rows, options["system"], look)
            data.resume()
            async with sender:
                await data.go(LenientSender(sender), options["concurrency"])

        hint = f"; {out} has what there is, the same command goes on from there"
        try:
            asyncio.run(run())
        except ClusterError as error:
            raise ClusterError(f"{error}{hint}", error.status) from None
        except OSError as error:
            raise UsageError(f"{error.filename or out}: {error.strerror or error}{hint}") from None
        except KeyboardInterrupt:
            say(f"stopped{hint}", err=True)
            return 130
    say(_summary(writing, out), err=True)
    return 0 if writing.rows >= writing.count else 1


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _plan(options: Mapping[str, Any]) -> DataPlan:
    """Raises UsageError and ClusterError."""
    for name in ("domain", "language", "system"):
        if len(options[name]) > _LONGEST:
            raise UsageError(f"--{name}: longer than {_LONGEST} characters", exit_code=2)
    if not options["domain"].strip():
        raise UsageError("--domain is empty", exit_code=2)
    return DataPlan(
        options["domain"].strip(), _model(options), options["language"].strip(), _examples(options["seed_file"]),
        options["temperature"], options["seed"],
    )  # fmt: skip


def _model(options: Mapping[str, Any]) -> str:
    """The one that is named; otherwise the first of the cluster. Another server is shown no key of ours."""
    if options["model"]:
        return str(options["model"])
    if options["url"]:
        raise UsageError("--model NAME is needed with --url", exit_code=2)
    with asking_client(None) as cluster:
        return chosen(cluster, None)


def _examples(path: Path | None) -> list[WrittenRow]:
    if path is None:
        return []
    text = bounded.read_given(path, _MOST_BYTES)
    try:
        rows = read_rows(text.encode().split(b"\n"))
    except UsageError as error:
        raise UsageError(f"{path}: {error}", exit_code=2) from None
    if lacking := [row.line for row in rows if not row.references]:
        raise UsageError(f"{path}: line {lacking[0]}: no answer", exit_code=2)
    return [WrittenRow(row.question, row.references[0]) for row in rows]


@contextlib.contextmanager
def _progress(writing: Writing) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, nothing elsewhere."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield lambda: None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    with Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=screen) as bar:
        task = bar.add_task("asking", total=writing.count)

        def look() -> None:
            words = f"{writing.rows} of {writing.count} rows, {writing.tokens} tokens"
            bar.update(task, completed=writing.rows, description=words)

        yield look


def _summary(writing: Writing, out: Path) -> str:
    tokens = f"{'about ' * writing.estimated}{writing.tokens:,} tokens"
    parts = [f"{writing.rows} rows in {out}", f"{writing.answers} answers", tokens]
    for number, what in ((writing.duplicates, "repeated"), (writing.refused, "refused"), (writing.failed, "failed")):
        if number:
            parts.append(f"{number} {what}")
    ended = "" if writing.rows >= writing.count else f"; fewer than {writing.count}: {writing.ended()}"
    return ", ".join(parts) + ended
