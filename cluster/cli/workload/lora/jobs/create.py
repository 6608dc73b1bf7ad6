"""`lora create`: an adapter for tests, without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cluster.cli.arguments import AbsolutePath
from cluster.cli.common import Finite, url_option
from cluster.cli.progress import JobPlace, run_job
from cluster.cli.render import say
from cluster.cli.workload.lora.jobs.origins import model_of, weights_of
from cluster.cli.workload.lora.shared import name_argument
from config.disk.absolute import here
from config.jobs.folder import JobSpec


@click.command("create")
@name_argument
@click.option("--out", type=AbsolutePath(), metavar="DIR", help="Its folder; default NAME, here.")
@click.option("--model", metavar="MODEL", help="Folder, reference or served name; default the cluster's.")
@click.option("--rank", default=16, show_default=True, type=click.IntRange(1, 1024))
@click.option("--alpha", type=Finite(1e-3, 1e5), help="The adapter counts alpha / rank; default twice the rank.")
@click.option("--targets", default="all", show_default=True, metavar="attention|full-attention|all|NAMES")
@click.option("--embeddings", is_flag=True, help="The embedding and the output layer as well.")
@click.option("--seed", default=42, show_default=True, type=click.IntRange(0, 1 << 31))
@click.option("--scale", default=0.02, show_default=True, type=Finite(0, 10), help="How large the values of B are.")
@click.option("--overwrite", is_flag=True, help="Replace the adapter in the folder.")
@url_option
def create(name: str, out: Path | None, model: str | None, url: str | None, **given: Any) -> int:
    """Make an adapter NAME that changes answers by chance: no training, no weights are read."""
    origin = weights_of(model_of(model, url))
    if given["targets"] not in ("attention", "full-attention", "all"):
        given["targets"] = [each.strip() for each in given["targets"].split(",")]
    known = {key: value for key, value in given.items() if value is not None}
    place = {"model": origin.path, "base_name": origin.name, "out": str(out or here() / name)}
    found = run_job(JobSpec("create", {**known, **place}), JobPlace(url, gpus=()))
    say(f"{name}: rank {found['rank']}, {', '.join(found['targets'])}, in {found['path']}")
    return 0
