"""`lora validate`: an adapter checked as a cluster would, without one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cluster.cli.arguments import AbsolutePath
from cluster.cli.render import say, say_json
from cluster.cli.workload.lora.shared import no_effect_option, path_argument, say_converted, say_unchecked, size_text
from config.errors import UsageError

if TYPE_CHECKING:
    from worker.adapters.files import AdapterFacts, BaseShapes

#: ``--max-lora-rank`` of a cluster that is told nothing, where no adapter needs more.
_USUAL_RANK = 16


@click.command("validate")
@path_argument
@click.option(
    "--model", type=AbsolutePath(), help="The base model's folder; without one, the demo model."
)
@click.option(
    "--max-lora-rank", default=_USUAL_RANK, show_default=True, type=click.IntRange(1), help="Highest rank to accept."
)
@no_effect_option
@click.option("--json", "as_json", is_flag=True, help="What it is, and what had to be done to it.")
def validate(path: Path, model: Path | None, max_lora_rank: int, allow_no_effect: bool, as_json: bool) -> int:
    """Check the adapter in folder PATH as a cluster would before it loads it. No cluster is needed. What had to be
    converted is, in a folder of its own that goes again: `lora convert` keeps it."""
    from worker.adapters import engine_side  # they read models: not for every start of the command line
    from worker.adapters import files as adapter_files
    from worker.demo import MODEL_NAME, model_path
    from worker.spec import EngineSpec

    if model and not model.is_dir():
        raise click.UsageError(f"--model {model}: no such folder")
    served, base_path = (str(model), model) if model else (MODEL_NAME, model_path())
    base = adapter_files.read_base(str(base_path))
    side = engine_side.read(EngineSpec(engine="vllm", model=str(base_path), served_names=(served,)))
    inspect = partial(
        adapter_files.inspect, base=base, served_names=(served,), max_rank=max_lora_rank,
        allow_no_effect=allow_no_effect, side=side,
    )
    try:
        facts = _inspect(path, inspect, base, str(base_path))
    except adapter_files.AdapterRejected as error:
        raise UsageError(str(error)) from None
    if as_json:
        return say_json(asdict(facts))
    say_converted(facts.converted, err=False)
    say(
        f"ok: rank {facts.rank}, {', '.join(sorted(facts.target_modules))}, {size_text(facts.size)}, "
        f"base model {facts.base_model or 'not named'}, content {facts.content_hash[:12]}"
    )
    say_unchecked(facts.unchecked, err=False)
    return 0


def _inspect(path: Path, inspect: Callable[[Path], AdapterFacts], base: BaseShapes | None, model: str) -> AdapterFacts:
    """As it is or, where that is refused, as a conversion makes it. Raises AdapterRejected, UsageError."""
    from cluster.cli.workload.lora.jobs.convert import run_conversion
    from worker.adapters.files import AdapterRejected
    from worker.adapters.foreign import is_foreign

    try:
        return inspect(path)
    except AdapterRejected:
        if not path.is_dir() or not is_foreign(path.resolve(), base):
            raise
    with tempfile.TemporaryDirectory(prefix="clusterctl-adapter-") as name:
        folder = Path(name) / "adapter"
        found = run_conversion(path, folder, model)
        return replace(inspect(folder), converted=tuple(map(str, found["done"])))
