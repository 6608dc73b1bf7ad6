"""`infer`: ask a file of questions."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import click

from cluster.cli.common import Finite, asking_client, asking_key, url_option, verification
from cluster.cli.render import say
from cluster.cli.workload.asking import progress
from cluster.cli.workload.models import chosen
from cluster.client import ClusterError
from cluster.client.core import root_of
from cluster.client.token import key_for
from cluster.tools.batch import files as batch_files
from cluster.tools.batch import lines as batch_lines
from cluster.tools.batch.files import STDOUT, BatchStep, Output
from cluster.tools.batch.lines import Defaults
from cluster.tools.batch.progress import BatchProgress
from cluster.tools.batch.run import BACKGROUND, LineSender, RequestSender, fed, in_order
from config.errors import UsageError
from config.sources.commands import cluster_url

_CONCURRENCY = 16


@click.command("infer")
@click.option("--in", "source", required=True, metavar="FILE", help="One request a line (- is standard input).")
@click.option("--out", "target", required=True, metavar="FILE", help="One answer a line (- is standard output).")
@click.option("--model", "-m", help="For lines that name none (default: the base model); with --offline it is this.")
@click.option(
    "--concurrency", "-c", type=click.IntRange(1, 4096),
    help="At a time; default 16, with --offline as many as the engine computes.",
)
@click.option("--max-tokens", type=click.IntRange(1), help="For lines that say nothing of it.")
@click.option("--temperature", type=Finite(0), help="For lines that say nothing of it.")
@click.option("--seed", type=int, help="For lines that say nothing of it.")
@click.option("--chat", is_flag=True, help="Put prompts as questions in a chat, not as texts to go on with.")
@click.option("--text", is_flag=True, help="Each line is a prompt as it stands, not JSON.")
@click.option("--retry-errors", is_flag=True, help="Ask again what failed in an earlier run.")
@click.option("--overwrite", is_flag=True, help="Begin anew, whatever the output holds.")
@click.option("--background", is_flag=True, help="Let all other requests go first.")
@click.option("--retries", default=5, show_default=True, type=click.IntRange(0), help="Further attempts at a line.")
@click.option(
    "--timeout", default=600.0, show_default=True, type=Finite(0, min_open=True),
    help="Seconds one answer may take.",
)
@click.option("--offline", is_flag=True, help="Without a cluster: the engine runs in this process.")
@click.option(
    "--lora-modules", "--lora", "lora", multiple=True, metavar="NAME=PATH",
    help="With --offline: an adapter, which lines choose as their model; several may follow.",
)
@url_option
@click.argument("engine_args", nargs=-1, type=click.UNPROCESSED)
def infer_command(
    source: str, target: str, model: str | None, concurrency: int | None, chat: bool, text: bool, retry_errors: bool,
    overwrite: bool, background: bool, retries: int, timeout: float, offline: bool, lora: tuple[str, ...],
    url: str | None, engine_args: tuple[str, ...], **sampling: Any,
) -> int:
    """Ask every line of a file, many at a time; the answers come in the order of the lines.

    A line is {"prompt": …}, {"messages": […]}, a string, or OpenAI's batch form {"custom_id", "method", "url", "body"};
    other fields (max_tokens, temperature, model, …) go along. Started again after a break, it asks what is missing.
    Exit code 1 if any line failed; its error stands in its line of the output."""
    given = {k: v for k, v in sampling.items() if v is not None}
    if offline:
        if url is not None:
            raise UsageError("--offline asks no cluster: leave --url away", 2)
        made = _offline(model, lora, engine_args, timeout)
    elif lora or engine_args:
        raise UsageError(f"{(*lora, *engine_args)[0]}: adapters and engine flags are for --offline", 2)
    else:
        made = _online(url, model, concurrency or _CONCURRENCY, retries, timeout, background)
    with _input(source) as file, made as (asker, name, seats):
        with contextlib.closing(_output(source, target, overwrite, retry_errors)) as out:
            size = os.fstat(file.fileno()).st_size if Path(source).is_file() else None
            return _answered(asker, Defaults(name, given, chat, text), concurrency or seats, file, size, out)


@contextlib.contextmanager
def _online(
    url: str | None, model: str | None, concurrency: int, retries: int, timeout: float, background: bool
) -> Iterator[tuple[LineSender, str, int]]:
    """Who asks, the model of lines that name none, and how many are asked at a time."""
    with asking_client(url) as cluster:
        name = chosen(cluster, model)
    where = url or cluster_url()
    verify = verification(where)
    key = key_for(root_of(where), asking_key(), verify)
    headers = BACKGROUND if background else None
    yield RequestSender(where, key, concurrency, retries, timeout, verify=verify, headers=headers), name, concurrency


@contextlib.contextmanager
def _offline(
    model: str | None, lora: tuple[str, ...], given: tuple[str, ...], timeout: float
) -> Iterator[tuple[LineSender, str, int]]:
    """As `_online`, of an engine that is ended again. Raises UsageError."""
    from cluster.cli.lifecycle.up import given_flags  # they read settings, and engines
    from cluster.deployment.profiles import resolution
    from cluster.tools.batch.offline import OfflineSender
    from worker.offline import OfflineEngine, OfflineError

    more = tuple(itertools.takewhile(lambda word: not word.startswith("-"), given)) if lora else ()
    found = resolution.load(given_flags({"model": model, "lora": (*lora, *more)}, given[len(more) :]))
    for note in found.notes:
        say(note, err=True)
    try:
        with OfflineEngine(settings=found.settings) as engine:
            yield OfflineSender(engine, timeout), engine.model, engine.seats
    except OfflineError as error:
        raise UsageError(str(error)) from None


def _answered(
    asker: LineSender, defaults: Defaults, concurrency: int, file: IO[bytes], size: int | None, out: Output
) -> int:
    """The exit code. ``size``: bytes of ``file``, where that is known."""
    report = BatchProgress(out)
    steps = batch_files.steps(
        batch_files.lines(file, defaults.plain), functools.partial(batch_lines.ask_of, defaults=defaults), out.name,
        out.kept(), out.earlier(),
    )
    with progress(report, size, shown=out.name != STDOUT):
        try:
            asyncio.run(_run(asker, concurrency, steps, report))
            out.complete()
        except (ClusterError, UsageError) as error:
            raise _with_hint(error, report) from None
        except OSError as error:
            raise UsageError(f"{out.name}: {error.strerror or error}{report.hint()}") from None
        except KeyboardInterrupt:
            say(f"stopped{report.hint()}", err=True)
            return 130
    say(report.summary(), err=True)
    return 1 if report.failed else 0


def _output(source: str, target: str, overwrite: bool, retry: bool) -> Output:
    if target == "-":
        return Output(None)
    path = Path(target)
    try:
        there = path.exists()
        same = source != "-" and there and Path(source).exists() and path.samefile(source)
    except OSError as error:
        raise UsageError(f"{target}: {error.strerror or error}", 2) from None
    if same:
        raise UsageError("--in and --out are the same file", 2)
    if retry and not there:
        raise UsageError(f"{target}: there is nothing to ask again", 2)
    return Output(path, overwrite, retry)


@contextlib.contextmanager
def _input(source: str) -> Iterator[IO[bytes]]:
    """A file of our own: the one behind sys.stdin must not be held by a thread at the end."""
    try:
        file = open(os.dup(0) if source == "-" else source, "rb")  # noqa: PTH123, SIM115
    except OSError as error:
        raise UsageError(f"{source}: {error.strerror or error}", 2) from None
    yield file  # left open: a thread may be reading it for ever


async def _run(asker: LineSender, concurrency: int, steps: Iterator[BatchStep], report: BatchProgress) -> None:
    async with asker:
        await in_order(fed(steps), asker, concurrency, report.take)


def _with_hint(error: Exception, report: BatchProgress) -> Exception:
    if isinstance(error, ClusterError):
        return ClusterError(f"{error}{report.hint()}", error.status)
    return error
