"""What a training is told. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from worker.jobs.job import JobFailed

#: Of what is computed with; ``auto``: bfloat16 on a GPU that has it, else float32.
DTYPES = ("auto", "bf16", "fp32")

#: What of the settings decides nothing of the result.
_WITHOUT_EFFECT = frozenset({"name", "out", "save_every", "resume", "overwrite", "data"})


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """``data``: file; ``model``: folder, or an id of the hub that lies in its cache; ``base_name``: what the adapter
    says it was trained on; ``out``: the adapter's folder. A step of the optimizer sees ``batch_size * grad_accum``
    examples; ``lr`` rises for the share ``warmup`` of all steps, then falls with a cosine to 0; ``max_length`` in
    tokens; ``val_split``: the share of rows kept out for validation; ``save_every`` s there is a checkpoint.
    ``resume``: from the latest checkpoint, to the same result; ``overwrite``: in place of what lies there."""

    name: str
    data: str
    model: str
    out: str
    base_name: str = ""
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.05
    targets: str | tuple[str, ...] = "all"
    embeddings: bool = False
    epochs: int = 3
    batch_size: int = 4
    grad_accum: int = 4
    lr: float = 2e-4
    warmup: float = 0.03
    max_length: int = 2048
    seed: int = 42
    val_split: float = 0.0
    dtype: str = "auto"
    gradient_checkpointing: bool | None = None
    save_every: float = 60.0
    resume: bool = False
    overwrite: bool = False

    @property
    def decisive(self) -> dict[str, Any]:
        """What the result follows from, as JSON; the rows of the data set do as well."""
        found = {name: value for name, value in asdict(self).items() if name not in _WITHOUT_EFFECT}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}


_BOUNDS: Mapping[str, tuple[float, float]] = {
    "rank": (1, 1024), "alpha": (1e-3, 1e5), "dropout": (0, 0.9), "epochs": (1, 10_000), "batch_size": (1, 4096),
    "grad_accum": (1, 4096), "lr": (1e-9, 1), "warmup": (0, 1), "max_length": (8, 1 << 20), "seed": (0, 1 << 31),
    "val_split": (0, 0.9), "save_every": (0, 1e6),
}  # fmt: skip


def check(arguments: Mapping[str, Any]) -> None:
    """Raises JobFailed 400 as `read` raises ValueError."""
    try:
        read(arguments)
    except ValueError as error:
        raise JobFailed(str(error), 400) from None


def read(arguments: Mapping[str, Any]) -> TrainingSettings:
    """Raises ValueError for a value that is none, or out of its bounds."""
    known = {each.name for each in fields(TrainingSettings)}
    if unknown := sorted(arguments.keys() - known):
        raise ValueError(f"a training has no {unknown[0]!r}")
    if missing := sorted({"name", "data", "model", "out"} - arguments.keys()):
        raise ValueError(f"a training needs {missing[0]!r}")
    given = dict(arguments)
    if isinstance(given.get("targets"), list):
        given["targets"] = tuple(map(str, given["targets"]))
    for name in ("name", "data", "model", "out", "base_name"):
        if not isinstance(given.get(name, ""), str):
            raise ValueError(f"{name}: {given[name]!r} is no text")
    for name, (least, most) in _BOUNDS.items():
        value = given.get(name, least)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise ValueError(f"{name}: {value!r} is no number from {least:g} to {most:g}")
    for name in ("rank", "epochs", "batch_size", "grad_accum", "max_length", "seed"):
        if name in given and not isinstance(given[name], int):
            raise ValueError(f"{name}: {given[name]!r} is no whole number")
    if given.get("dtype", "auto") not in DTYPES:
        raise ValueError(f"dtype: {given['dtype']!r} is none of {', '.join(DTYPES)}")
    return TrainingSettings(**given)
