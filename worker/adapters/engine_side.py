"""What an engine's flags and the model's class mean for adapters. Reads the model's config.json: blocking."""

from __future__ import annotations

from worker.adapters.shapes import model_folder
from worker.adapters.targets import EngineSide
from worker.adapters.tensors import AdapterRejected, open_regular, read_object
from worker.engines import flags, lora_names
from worker.spec import EngineSpec

_MAX_CONFIG = 1_000_000  # bytes

#: With these the model's class is another than its config.json says, or its modules have other names.
_OTHER_CLASS = ("--hf-overrides", "--model-impl")

_POOLING = ("--runner", "--convert", "--task", "--pooler-config", "--override-pooler-config")
_GENERATING = ("ForCausalLM", "ForConditionalGeneration")


def read(spec: EngineSpec) -> EngineSide:
    """Of workers that are started with ``spec``."""
    args = spec.extra_args
    architecture = _architecture(spec.model)
    known = architecture is not None and not any(flags.has(args, flag) for flag in _OTHER_CLASS)
    targets = flags.values(args, "--lora-target-modules")
    return EngineSide(
        names=lora_names.of(architecture) if known and architecture else None,
        targets=tuple(targets) if targets else None,
        towers=flags.has(args, "--enable-tower-connector-lora"),
        pooling=any(flags.has(args, flag) for flag in _POOLING)
        or (architecture is not None and not architecture.endswith(_GENERATING)),
        most_labels=flags.integer(args, "--max-lora-cls-labels", 0) or None,
    )


def _architecture(model: str) -> str | None:
    folder = model_folder(model, None)
    if folder is None:
        return None
    try:
        with open_regular(folder / "config.json") as stream:
            found = read_object(stream, "config.json", _MAX_CONFIG).get("architectures")
    except (OSError, AdapterRejected):
        return None
    return found[0] if isinstance(found, list) and found and isinstance(found[0], str) else None
