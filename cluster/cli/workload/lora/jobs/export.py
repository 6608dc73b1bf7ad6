"""`lora export` and `lora quantize`: a merged model in fewer bits, by what is installed, or by which commands."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from cluster.cli.arguments import AbsolutePath
from cluster.cli.progress import JobPlace, job_options, run_job
from cluster.cli.render import say
from cluster.cli.workload.lora.jobs.origins import adapter_of, model_of, weights_of
from cluster.cli.workload.lora.shared import size_text
from config.disk.absolute import looks_like_path
from config.errors import UsageError
from config.jobs.folder import JobSpec

#: By rounding alone: done here.
_HERE = ("int8", "fp8")

#: Calibrated on examples: llm-compressor's, which wants an environment of its own.
_CALIBRATED = {"w4a16": "W4A16", "w8a8": "W8A8"}

#: llama.cpp's, by its own tools.
_LLAMA_CPP = ("q8_0", "q6_k", "q5_k_m", "q4_k_m")

_scheme = click.Choice([*_HERE, *_CALIBRATED, *_LLAMA_CPP])
_overwrite = click.option("--overwrite", is_flag=True, help="Replace the model in the folder.")
_out = click.option("--out", required=True, type=AbsolutePath(), metavar="DIR", help="The new model's folder.")


@click.command("quantize")
@click.argument("folder", type=AbsolutePath())
@_out
@click.option("--scheme", required=True, type=_scheme, help="int8 and fp8 here; others by a command that is shown.")
@_overwrite
@job_options
def quantize(folder: Path, out: Path, scheme: str, overwrite: bool, place: JobPlace) -> int:
    """Make the model in FOLDER smaller: values of 8 bits, with a scale a row of each linear layer."""
    return _quantized(folder, out, scheme, overwrite, place)


@click.command("export")
@click.argument("name", metavar="NAME|FOLDER")
@_out
@click.option("--quant", type=_scheme, help="As --scheme of `lora quantize`; without one as `lora merge` does.")
@click.option("--model", metavar="MODEL", help="The base: folder, reference or served name; default the adapter's.")
@_overwrite
@job_options
def export(name: str, out: Path, quant: str | None, model: str | None, overwrite: bool, place: JobPlace) -> int:
    """Merge the adapter NAME of the cluster, or the one in FOLDER, and make the model smaller."""
    if quant is not None and quant not in _HERE:
        merged = out.with_name(f"{out.name}-merged")
        raise _by_command(merged, out, quant, ("clusterctl", "lora", "merge", name, "--out", str(merged)))
    if place.detach:
        raise click.UsageError("it is two jobs, one after the other: leave --detach away")
    folder = adapter_of(name, place.url)
    origin = weights_of(model_of(model, place.url, None if looks_like_path(name) else name))
    merged = out if quant is None else out.with_name(f".{out.name}.merged")
    spec = {"model": origin.path, "adapter": str(folder), "out": str(merged), "overwrite": overwrite or merged != out}
    try:
        found = run_job(JobSpec("merge", spec), place)
        if quant is not None:
            return _quantized(merged, out, quant, overwrite, place)
        say(f"{size_text(found['bytes'])} in {found['path']}")
        return 0
    finally:
        if merged != out:
            shutil.rmtree(merged, ignore_errors=True)


def _quantized(folder: Path, out: Path, scheme: str, overwrite: bool, place: JobPlace) -> int:
    if scheme not in _HERE:
        raise _by_command(folder, out, scheme)
    spec: Mapping[str, object] = {"model": str(folder), "out": str(out), "scheme": scheme, "overwrite": overwrite}
    found = run_job(JobSpec("quantize", spec), place)
    if not found:
        return 0
    say(
        f"{found['rounded']} layers in {scheme}, {size_text(found['bytes_before'])} -> {size_text(found['bytes'])} "
        f"in {found['path']}"
    )
    return 0


def _by_command(folder: Path, out: Path, scheme: str, before: Sequence[str] = ()) -> UsageError:
    """Says on standard output what does it, for a shell: none of these can be installed beside vLLM 0.32."""
    commands = [tuple(before)] if before else []
    if scheme in _CALIBRATED:
        recipe = f"GPTQModifier(targets='Linear', scheme={_CALIBRATED[scheme]!r}, ignore=['lm_head'])"
        script = (
            "from llmcompressor import oneshot; from llmcompressor.modifiers.quantization import GPTQModifier; "
            f"oneshot(model={str(folder)!r}, dataset='open_platypus', recipe={recipe}, output_dir={str(out)!r})"
        )
        commands += [
            ("python", "-m", "venv", "quantize"), ("quantize/bin/pip", "install", "llmcompressor"),
            ("quantize/bin/python", "-c", script),
        ]
    else:
        large, small = f"{out}.bf16.gguf", f"{out}.gguf"
        commands += [
            ("python", "llama.cpp/convert_hf_to_gguf.py", str(folder), "--outtype", "bf16", "--outfile", large),
            ("llama-quantize", large, small, scheme.upper()),
        ]
    for command in commands:
        say(shlex.join(command))
    return UsageError(f"{scheme} needs tools that are not here: the commands above do it", 2)
