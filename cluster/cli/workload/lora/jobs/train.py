"""`lora train`: from a data set to an adapter, and on to the cluster."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.table import Table

from cluster.cli.arguments import AbsolutePath, adapter_name
from cluster.cli.common import Finite
from cluster.cli.progress import JobPlace, job_options, run_job
from cluster.cli.render import cell, console, duration, plain_table, say
from cluster.cli.workload.lora.jobs.origins import ModelOrigin, model_of, weights_of
from cluster.cli.workload.lora.jobs.release import TrafficShare, check, release
from cluster.cli.workload.lora.jobs.resources import beside
from cluster.client import ClusterError
from config.disk.absolute import here
from config.errors import UsageError
from config.jobs.folder import JobSpec
from config.model_names import NAME

F = TypeVar("F", bound=Callable[..., Any])

_DATA = (".jsonl", ".json")

#: What the options mean is said in docs/training.md; without one its default of `worker.training.settings` holds.
_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "--rank": {"type": click.IntRange(1, 1024), "help": "Of the matrices (16)."},
    "--alpha": {"type": Finite(1e-3, 1e5), "help": "The adapter counts alpha / rank (32)."},
    "--dropout": {"type": Finite(0, 0.9), "help": "Share of what an adapter sees that is left out (0.05)."},
    "--targets": {"metavar": "attention|full-attention|all|NAMES", "help": "Which layers are changed (all)."},
    "--embeddings": {"is_flag": True, "default": None, "help": "The embedding and the output layer as well."},
    "--epochs": {"type": click.IntRange(1, 10_000), "help": "Times that each row is seen (3)."},
    "--batch-size": {"type": click.IntRange(1, 4096), "help": "Rows at a time (4)."},
    "--grad-accum": {"type": click.IntRange(1, 4096), "help": "Batches a step of the optimizer (4)."},
    "--lr": {"type": Finite(1e-9, 1), "help": "The highest learning rate (0.0002)."},
    "--max-length": {"type": click.IntRange(8, 1 << 20), "help": "Tokens of a row; the rest is cut off (2048)."},
    "--seed": {"type": click.IntRange(0, 1 << 31), "help": "Of the order of rows and all else by chance (42)."},
    "--val-split": {"type": Finite(0, 0.9), "help": "Share of the rows that is kept out for validation (0)."},
    "--dtype": {"type": click.Choice(["auto", "bf16", "fp32"]), "help": "Of the model (auto: bf16 on GPUs)."},
    "--gradient-checkpointing/--no-gradient-checkpointing": {"default": None, "help": "Less memory, more time."},
    "--save-every": {"type": Finite(0, 1e6), "metavar": "SECONDS", "help": "Between two checkpoints (60)."},
    "--resume": {"is_flag": True, "default": None, "help": "Go on with what was broken off, to the same result."},
    "--overwrite": {"is_flag": True, "default": None, "help": "Replace the adapter in the folder."},
}  # fmt: skip


def _training_options(function: F) -> F:
    for name, how in reversed(tuple(_OPTIONS.items())):
        click.option(name, **how)(function)
    return function


@click.command("train")
@click.argument("name", required=False, callback=adapter_name)
@click.option("--data", type=AbsolutePath(), metavar="FILE", help="Chats, a JSON object a line.")
@click.option("--all", "folder", type=AbsolutePath(), metavar="DIR", help="One adapter for each data set in DIR.")
@click.option("--model", metavar="MODEL", help="Folder, reference or served name; default the cluster's.")
@click.option("--out", type=AbsolutePath(), metavar="DIR", help="The adapter's folder; with --all those of all.")
@_training_options
@click.option("--background/--no-background", default=None,
              help="Only where no processor is wanted; default beside a cluster that computes on processors.")
@click.option("--load", is_flag=True, help="Then make it the next version on the cluster.")
@click.option("--canary", type=TrafficShare(), metavar="10%", help="With --load: for this share of who asks.")
@job_options
def train(
    name: str | None, data: Path | None, folder: Path | None, model: str | None, out: Path | None,
    background: bool | None, load: bool, canary: float | None, place: JobPlace, **given: Any,
) -> int:
    """Train the LoRA adapter NAME on chats, of which the answers are learned."""
    sets = _data_sets(name, data, folder, out)
    if canary is not None and not load:
        raise click.UsageError("--canary goes with --load")
    if place.detach and load:
        raise click.UsageError("--load waits for the adapter: leave --detach away")
    if load:
        check(place.url)
    origin, place = weights_of(model_of(model, place.url)), replace(beside(place), background=background)
    results: dict[str, Mapping[str, Any] | Exception] = {}
    for each, (file, target) in sets.items():
        spec = JobSpec("train", _arguments(each, file, target, origin, given), bool(background))
        try:
            results[each] = found = run_job(spec, place)
            if folder is None and found:
                _say(found)
            if load:
                release(place.url, each, target, origin.name if origin.served else None, canary)
        except (UsageError, ClusterError) as error:
            if folder is None:
                raise
            say(f"{each}: {error}", err=True)
            results[each] = error
    if folder is not None and not place.detach:
        console().print(_table(results))
    return 1 if any(isinstance(each, Exception) for each in results.values()) else 0


def _data_sets(
    name: str | None, data: Path | None, folder: Path | None, out: Path | None
) -> dict[str, tuple[Path, Path]]:
    """By the name of an adapter, what it is trained on and where it goes. Raises UsageError."""
    if folder is None:
        if name is None or data is None:
            raise click.UsageError("NAME and --data are needed, or --all")
        return {name: (data, out or here() / name)}
    if name is not None or data is not None:
        raise click.UsageError("--all names its adapters after their data sets: neither NAME nor --data goes with it")
    try:
        files = sorted(file for file in folder.iterdir() if file.suffix in _DATA and file.is_file())
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}", exit_code=2) from None
    if wrong := [file.name for file in files if not NAME.fullmatch(file.stem)]:
        raise UsageError(f"{wrong[0]} gives no name of an adapter: [A-Za-z0-9._-], 1 to 128 characters", exit_code=2)
    if not files:
        raise UsageError(f"{folder} holds no data sets ({', '.join(_DATA)})", exit_code=2)
    if len({file.stem for file in files}) < len(files):
        raise UsageError(f"{folder} holds two data sets of one name", exit_code=2)
    return {file.stem: (file, (out or here()) / file.stem) for file in files}


def _arguments(
    name: str, data: Path, out: Path, origin: ModelOrigin, given: Mapping[str, Any]
) -> dict[str, Any]:
    found = {key: value for key, value in given.items() if value is not None}
    if "," in found.get("targets", "") or found.get("targets", "all") not in ("attention", "full-attention", "all"):
        found["targets"] = [each.strip() for each in found["targets"].split(",")]
    return {"name": name, "data": str(data), "out": str(out), "model": origin.path, "base_name": origin.name, **found}


def _say(result: Mapping[str, Any]) -> None:
    validation = ""
    if "validation_to" in result:
        validation = f", validation {result['validation_from']:.4g} -> {result['validation_to']:.4g}"
    say(
        f"{result['name']}: {result['steps']} steps in {duration(result['seconds'])}, "
        f"loss {result['loss_from']:.4g} -> {result['loss_to']:.4g}{validation}, "
        f"{result['samples_per_second']:.3g} samples/s, "
        f"{result['tokens_per_second']:.4g} tokens/s"
    )
    say(f"in {result['path']}, with {', '.join(result['files'])}")


def _table(results: Mapping[str, Mapping[str, Any] | Exception]) -> Table:
    table = plain_table("adapter", ">rows", ">steps", ">loss", ">time", ">samples/s", "")
    for name, result in results.items():
        if isinstance(result, Exception):
            table.add_row(cell(name), *5 * ["-"], cell(str(result), "red"))
            continue
        table.add_row(
            cell(name), cell(result["rows"]), cell(result["steps"]),
            cell(f"{result['loss_from']:.4g} -> {result['loss_to']:.4g}"), duration(result["seconds"]),
            cell(f"{result['samples_per_second']:.3g}"), cell(result["path"]),
        )
    return table
