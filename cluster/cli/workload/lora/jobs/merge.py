"""`lora merge`: an adapter added into its model, which is a model as any other then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cluster.cli.arguments import AbsolutePath
from cluster.cli.common import url_option
from cluster.cli.progress import JobPlace, run_job
from cluster.cli.render import say
from cluster.cli.workload.lora.jobs.origins import adapter_of, model_of, weights_of
from cluster.cli.workload.lora.shared import size_text
from config.disk.absolute import looks_like_path
from config.jobs.folder import JobSpec


@click.command("merge")
@click.argument("name", metavar="NAME|FOLDER")
@click.option("--out", required=True, type=AbsolutePath(), metavar="DIR", help="The new model's folder.")
@click.option("--model", metavar="MODEL", help="The base: folder, reference or served name; default the adapter's.")
@click.option("--dtype", type=click.Choice(["bf16", "fp16", "fp32"]), help="Of its values; default the base's.")
@click.option("--serve-as", metavar="MODEL", help="Then let the cluster serve it by this name.")
@click.option("--overwrite", is_flag=True, help="Replace the model in the folder.")
@url_option
@click.argument("engine_args", nargs=-1, type=click.UNPROCESSED)
def merge(
    name: str, out: Path, model: str | None, dtype: str | None, serve_as: str | None, overwrite: bool, url: str | None,
    engine_args: tuple[str, ...],
) -> int:
    """Add the adapter NAME of the cluster, or the one in FOLDER, into its model. In memory is a tensor at a time. What
    follows -- goes to the engine's own command line, with --serve-as."""
    if engine_args and serve_as is None:
        raise click.UsageError(f"{engine_args[0]}: flags of an engine go with --serve-as")
    folder = adapter_of(name, url)
    origin = weights_of(model_of(model, url, None if looks_like_path(name) else name))
    found = run_job(JobSpec("merge", {
        "model": origin.path, "adapter": str(folder), "out": str(out), "dtype": dtype, "overwrite": overwrite,
    }), JobPlace(url, gpus=()))  # fmt: skip
    say(f"{found['changed']} of {found['tensors']} tensors changed, {size_text(found['bytes'])} in {found['path']}")
    if serve_as is None:
        return 0
    from cluster.cli.running.models import load_model  # reads settings: not for every start of the command line

    fields: dict[str, Any] = {"args": list(engine_args)} if engine_args else {}
    return load_model(url, serve_as, str(out), **fields)
