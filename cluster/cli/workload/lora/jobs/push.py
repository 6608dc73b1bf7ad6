"""`lora push`: an adapter or a merged model, published."""

from __future__ import annotations

import click

from cluster.cli.progress import JobPlace, job_options, run_job
from cluster.cli.render import say
from cluster.cli.workload.lora.jobs.origins import adapter_of, title_of
from cluster.cli.workload.lora.shared import size_text
from config.disk.absolute import absolute
from config.errors import UsageError
from config.jobs.folder import JobSpec
from config.values.references import is_reference


@click.command("push")
@click.argument("name", metavar="NAME|FOLDER")
@click.argument("destination", metavar="hf://ORG/NAME|ms://ORG/NAME|s3://BUCKET/PREFIX|FOLDER")
@click.option("--base-model", "base", metavar="ID", help="What it names as its base; default what it was trained on.")
@click.option("--public", is_flag=True, help="A repository that is made for it may be seen by everybody.")
@click.option("--overwrite", is_flag=True, help="Replace the adapter in the folder.")
@job_options
def push(name: str, destination: str, base: str | None, public: bool, overwrite: bool, place: JobPlace) -> int:
    """Publish the adapter NAME of the cluster, or what is in FOLDER, an adapter or a model, with a card. Tokens come
    from the environment or the files of the hubs' own tools."""
    folder = adapter_of(name, place.url)
    try:
        target = destination if is_reference(destination) else str(absolute(destination))
    except ValueError as error:
        raise UsageError(str(error), exit_code=2) from None
    title = title_of(name)
    found = run_job(JobSpec("push", {
        "folder": str(folder), "destination": target, "name": title, "base": base, "public": public,
        "overwrite": overwrite,
    }), place)  # fmt: skip
    if found:
        say(f"{', '.join(found['files'])}: {size_text(found['bytes'])} at {found['destination']}")
    return 0
