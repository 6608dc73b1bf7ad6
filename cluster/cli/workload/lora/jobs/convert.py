"""`lora convert`: an adapter as a trainer left it, made into what engines load."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from cluster.cli.arguments import AbsolutePath
from cluster.cli.common import url_option
from cluster.cli.progress import run_job
from cluster.cli.render import say, say_json
from cluster.cli.workload.lora.jobs.origins import adapter_of, model_of
from config.disk.absolute import looks_like_path
from config.jobs.folder import JobSpec


@click.command("convert")
@click.argument("source", metavar="NAME|FOLDER")
@click.option("--out", required=True, type=AbsolutePath(), metavar="DIR", help="An empty or a new folder for it.")
@click.option("--to", type=click.Choice(["safetensors", "gguf"]), default="safetensors", show_default=True)
@click.option("--base", metavar="MODEL", help="The base model: folder, GGUF file, reference or served name.")
@click.option("--unconfined", is_flag=True, help="Read pickles even where this kernel cannot confine a process.")
@click.option("--json", "as_json", is_flag=True, help="What was done, and with what.")
@url_option
def convert(source: str, out: Path, to: str, base: str | None, unconfined: bool, as_json: bool, url: str | None) -> int:
    """Bring the adapter in FOLDER, or NAME of the cluster, to PEFT's names and files in safetensors, and for llama.cpp
    to GGUF. Pickles (.bin, .pt) are read in a process that can touch nothing else."""
    folder = adapter_of(source, url)
    model = None
    if base is not None or to == "gguf":
        model = model_of(base, url, None if looks_like_path(source) else source).path
    found = run_conversion(folder, out, model, to=to, unconfined=unconfined)
    if as_json:
        return say_json({name: found[name] for name in ("done", "files", "walls", "missing")})
    for sentence in (*found["missing"], *found["done"]):
        say(str(sentence))
    say(f"{', '.join(map(str, found['files']))} in {out}" + ("" if found["done"] else ": nothing had to be changed"))
    return 0


def run_conversion(folder: Path, out: Path, base: str | None, **more: Any) -> Mapping[str, Any]:
    """The result of the job. Raises UsageError; nothing is left in ``out`` then."""
    there = out.exists()
    try:
        arguments = {"source": str(folder), "out": str(out), "base": base, **more}
        return run_job(JobSpec("convert", arguments), gpus=[])
    except BaseException:
        if not there:
            with contextlib.suppress(OSError):
                out.rmdir()
        raise
